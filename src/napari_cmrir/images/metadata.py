"""Metadata of image files: pixel size in micrometres, and channel names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

__all__ = ["micrometres", "of_resolution", "of_slide_description", "ome_images", "square"]

LARGEST = 20.0
"""Largest pixel size, in micrometres, believed from resolution tags.

A screen's 72 to 96 dpi are 353 to 265 µm, a printer's 300 to 1,200 dpi are 85 to 21 µm.
"""

_UNITS = {
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("in", "inch"), 25400.0),
}


def micrometres(value: float | str | None, unit: str | None) -> float | None:
    r"""Convert a length to micrometres; ``None`` if it is missing, not positive or of an unknown unit.

    Examples
    --------
    >>> micrometres(250, "nanometer"), micrometres("0.5", "\\u00B5m"), micrometres(1, "pixel")
    (0.25, 0.5, None)
    """
    plain = (unit or "").strip().lower().replace("\\u00b5", "µ")
    try:
        length = float(value or 0) * _UNITS.get(plain, 0.0)
    except ValueError:
        return None
    return length if math.isfinite(length) and length > 0 else None


def square(height: float | None, width: float | None) -> float | None:
    """Return the side of a square with the area of a pixel; if only one side is known, that side.

    Examples
    --------
    >>> square(0.5, 2.0), square(None, 0.5), square(None, None)
    (1.0, 0.5, None)
    """
    if height is None or width is None:
        return height or width
    return math.sqrt(height * width)


def of_resolution(x: Any, y: Any, unit: str | None) -> float | None:
    """Compute the pixel size from TIFF's resolution tags, which are fractions in pixels per unit.

    Parameters
    ----------
    x, y : (int, int) or None
        XResolution and YResolution as numerator and denominator.
    unit : str or None
        Name of the unit.

    Returns
    -------
    float or None
        Side of a pixel in micrometres; ``None`` if unknown or above `LARGEST`.

    Examples
    --------
    >>> of_resolution((20000, 1), (20000, 1), "centimeter"), of_resolution((72, 1), (72, 1), "inch")
    (0.5, None)
    """
    sides = [
        micrometres(bottom / top, unit) if top and bottom else None
        for top, bottom in (y or (0, 1), x or (0, 1))
    ]
    size = square(*sides)
    return size if size is not None and size <= LARGEST else None


def of_slide_description(description: str) -> float | None:
    """Read the micrometres per pixel (MPP) in the description of an Aperio slide.

    Examples
    --------
    >>> of_slide_description("Aperio Image Library|AppMag = 20|MPP = 0.4990")
    0.499
    """
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", description)
    return micrometres(found.group(1), "um") if found else None


def ome_images(xml: str | None) -> list[tuple[float | None, tuple[str, ...]]]:
    """Read pixel size and channel names of every image in OME-XML; an empty list if the XML is damaged.

    Parameters
    ----------
    xml : str or None

    Returns
    -------
    list of (float or None, tuple of str)
        Side of a pixel in micrometres, and channel names.

    Examples
    --------
    >>> ome_images('<OME><Image><Pixels PhysicalSizeX="0.5"><Channel Name="SHG"/></Pixels></Image></OME>')
    [(0.5, ('SHG',))]
    """
    try:
        root = ElementTree.fromstring(xml or "<OME/>")
    except ElementTree.ParseError:
        return []
    found = []
    for pixels in root.iterfind("{*}Image/{*}Pixels"):
        channels = pixels.findall("{*}Channel")
        names = [channel.get("Name") or f"channel {number}" for number, channel in enumerate(channels)]
        found.append((_ome_size(pixels.attrib), tuple(names)))
    return found


def _ome_size(attributes: Mapping[str, str]) -> float | None:
    sides = (
        micrometres(attributes.get(f"PhysicalSize{axis}"), attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "YX"
    )
    return square(*sides)
