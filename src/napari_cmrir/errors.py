"""What the user can put right."""

import errno

__all__ = ["InputError", "in_words"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WAY = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


class InputError(ValueError):
    """A request or an input that cannot be used; the message is one sentence for the user.

    The command line prints the message and exits with status 2, the widgets show it as a
    notification. It says what is wrong and what to do next, and names the file where there is one.

    Examples
    --------
    >>> raise InputError("notes.txt is not an image; give a TIFF, PNG or JPEG file.")
    Traceback (most recent call last):
        ...
    napari_cmrir.errors.InputError: notes.txt is not an image; give a TIFF, PNG or JPEG file.
    """


def in_words(error: OSError) -> InputError | None:
    """Say what the user can do about a fault of the disk.

    Parameters
    ----------
    error : OSError
        The fault.

    Returns
    -------
    InputError or None
        ``None`` where it is none of the user's making.

    Examples
    --------
    >>> print(in_words(PermissionError(13, "Permission denied", "a.csv")))
    a.csv: Permission denied; check the path and its permissions.
    >>> print(in_words(OSError(28, "No space left on device")))
    The disk is full; make room and try again.
    """
    if error.errno in _NO_ROOM:
        where = f" of {error.filename}" if error.filename is not None else ""
        return InputError(f"The disk{where} is full; make room and try again.")
    if error.filename is not None and error.errno in _NO_WAY:
        return InputError(f"{error.filename}: {error.strerror}; check the path and its permissions.")
    return None
