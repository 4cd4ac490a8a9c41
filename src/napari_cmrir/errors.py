"""Errors that the user can correct, and the classification of disk errors."""

import errno
import re
import sqlite3
from typing import Literal

__all__ = ["DiskFault", "ImageWarning", "InputError", "MissingError", "disk_fault", "in_words"]

DiskFault = Literal["full", "failing", "denied"]


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, 112)  # 112: ERROR_DISK_FULL of Windows, from Rust libraries
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_BAD_PATH = (*_DENIED, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
_SQLITE_FAULTS: dict[int, DiskFault] = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "failing",
    sqlite3.SQLITE_READONLY: "denied",
    sqlite3.SQLITE_CANTOPEN: "denied",
    sqlite3.SQLITE_PERM: "denied",
}


class InputError(ValueError):
    """A request or an input that cannot be used; the message is one sentence for the user.

    The message says what is wrong and what to do, and names the file, if any. The command line prints it and
    exits with status 2; the napari plugin shows it as a notification.

    Examples
    --------
    >>> raise InputError("notes.txt is not an image; give a TIFF, PNG or JPEG file.")
    Traceback (most recent call last):
        ...
    napari_cmrir.errors.InputError: notes.txt is not an image; give a TIFF, PNG or JPEG file.
    """


class MissingError(InputError):
    """Something that a method needs is not there: weights, a trained model, training pairs, or a package.

    A study leaves out what needs it, and does not count that as a failure.

    Examples
    --------
    >>> isinstance(MissingError("The ImageNet weights of resnet152 are missing."), InputError)
    True
    """


class ImageWarning(UserWarning):
    """A doubt about an image that is used all the same.

    Parameters
    ----------
    image : str
        Its name.
    doubt : str
        A phrase without the name; several images may have the same.

    Examples
    --------
    >>> str(ImageWarning("a.tif", "it has 1 channel; check its modality"))
    'a.tif: it has 1 channel; check its modality.'
    """

    def __init__(self, image: str, doubt: str) -> None:
        super().__init__(f"{image}: {doubt}.")
        self.image, self.doubt = image, doubt


def disk_fault(error: Exception) -> DiskFault | None:
    """Classify an error of the disk by its error code.

    Parameters
    ----------
    error : Exception
        Error of the operating system, of SQLite, or of a library that appends ``(os error 28)`` to its
        message, as Rust does.

    Returns
    -------
    {"full", "failing", "denied"} or None
        ``None`` if it is not an error of the disk.

    Examples
    --------
    >>> disk_fault(OSError(28, "No space left on device"))
    'full'
    >>> disk_fault(RuntimeError("I/O error: Permission denied (os error 13)"))
    'denied'
    """
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return None if code is None else _SQLITE_FAULTS.get(code & 0xFF)  # without the extended code
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        appended = re.search(r"\(os error (\d+)\)", str(error))
        number = int(appended.group(1)) if appended else None
    return "full" if number in _FULL else "denied" if number in _DENIED else None


def refusal_of(error: InputError | OSError) -> InputError | None:
    """Say why one file of several cannot be used.

    Parameters
    ----------
    error : InputError or OSError

    Returns
    -------
    InputError or None
        ``None`` if the other files would fail, too: the disk is full, or the user cannot correct the error.

    Examples
    --------
    >>> print(refusal_of(FileNotFoundError(2, "No such file or directory", "a.tif")))
    a.tif: No such file or directory; check the path and its permissions.
    >>> print(refusal_of(OSError(28, "No space left on device")))
    None
    """
    if isinstance(error, InputError):
        return error
    return None if disk_fault(error) == "full" else in_words(error)


def in_words(error: OSError) -> InputError | None:
    """Turn an error of the disk or of a path into a message for the user.

    Parameters
    ----------
    error : OSError

    Returns
    -------
    InputError or None
        ``None`` if the user cannot correct the error.

    Examples
    --------
    >>> print(in_words(PermissionError(13, "Permission denied", "a.csv")))
    a.csv: Permission denied; check the path and its permissions.
    >>> print(in_words(OSError(28, "No space left on device")))
    The disk is full; make room and try again.
    """
    if disk_fault(error) == "full":
        where = f" of {error.filename}" if error.filename is not None else ""
        return InputError(f"The disk{where} is full; make room and try again.")
    if error.filename is not None and error.errno in _BAD_PATH:
        return InputError(f"{error.filename}: {error.strerror}; check the path and its permissions.")
    return None
