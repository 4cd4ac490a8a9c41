"""What the user can put right."""

__all__ = ["InputError"]


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
