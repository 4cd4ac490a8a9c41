"""Pixel sizes and channel names, as files state them. Sizes are (y, x) in micrometres."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

__all__ = [
    "PixelSize",
    "micrometres",
    "ome_size",
    "ome_tree",
    "pixel_size",
    "sizes_of_instrument",
    "sizes_of_resolution",
    "sizes_of_slide",
    "square",
]

PixelSize = tuple[float, float]
"""Height and width of a pixel, micrometres."""

LARGEST = 20.0
"""Resolution tags that state a larger pixel, in micrometres, describe a screen or a printer (72 per inch)."""

_EXACT = {  # OME tells these apart by case
    "Ym": 1e30,
    "Zm": 1e27,
    "Em": 1e24,
    "Pm": 1e21,
    "Tm": 1e18,
    "Gm": 1e15,
    "Mm": 1e12,
    "mm": 1e3,
    "pm": 1e-6,
    "fm": 1e-9,
    "am": 1e-12,
    "zm": 1e-15,
    "ym": 1e-18,
}
_UNITS = {
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers"), 1.0),
    **dict.fromkeys(("micrometres", "u", "µ", "mic"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters", "centimetres"), 1e4),
    **dict.fromkeys(("dm", "decimeter", "decimetre"), 1e5),
    **dict.fromkeys(("pm", "picometer", "picometre", "picometers", "picometres"), 1e-6),
    **dict.fromkeys(("å", "å", "angstrom", "angstroms"), 1e-4),
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e6),
    **dict.fromkeys(("dam", "decameter"), 1e7),
    **dict.fromkeys(("hm", "hectometer"), 1e8),
    **dict.fromkeys(("km", "kilometer", "kilometre"), 1e9),
    **dict.fromkeys(("in", "inch", "inches", '"'), 25400.0),
    **dict.fromkeys(("thou", "mil", "mils"), 25.4),
    **dict.fromkeys(("li", "line"), 25400.0 / 12),
    **dict.fromkeys(("pt", "point"), 25400.0 / 72),
    **dict.fromkeys(("ft", "foot", "feet"), 304800.0),
    **dict.fromkeys(("yd", "yard"), 914400.0),
    **dict.fromkeys(("mi", "mile"), 1609344e3),
}


def micrometres(value: Any, unit: str | None) -> float | None:
    r"""Turn a length into micrometres; ``None`` where it is missing, not positive or of an unknown unit.

    Examples
    --------
    >>> micrometres(250, "nanometer"), micrometres("0.5", "\\u00B5m"), micrometres(1, "pixel")
    (0.25, 0.5, None)
    >>> micrometres(2, "thou"), micrometres("abc", "um")
    (50.8, None)
    """
    plain = (unit or "").strip().replace("\\u00B5", "µ").replace("\\u00b5", "µ").replace("Â", "")
    factor = _EXACT.get(plain) or _UNITS.get(plain.lower(), 0.0)
    try:
        length = float(value or 0) * factor
    except (TypeError, ValueError):
        return None
    return length if math.isfinite(length) and length > 0 else None


def pixel_size(height: float | None, width: float | None) -> PixelSize | None:
    """Pair the sides of a pixel; one known side stands for both.

    Examples
    --------
    >>> pixel_size(0.5, 0.25), pixel_size(None, 0.25), pixel_size(None, None)
    ((0.5, 0.25), (0.25, 0.25), None)
    """
    if height is None and width is None:
        return None
    return height or width or 0.0, width or height or 0.0


def square(size: PixelSize | float | None) -> float | None:
    """Return the side of the square as large as a pixel.

    Examples
    --------
    >>> square((0.5, 2.0)), square(0.3), square((0.3, 0.3)), square(None)
    (1.0, 0.3, 0.3, None)
    """
    if size is None or isinstance(size, (int, float)):
        return size
    height, width = size
    return height if height == width else math.sqrt(height * width)


def sizes_of_resolution(x: Any, y: Any, unit: str | None) -> PixelSize | None:
    """Read TIFF's resolution tags, pixels a unit, as fractions or as numbers of any type.

    Examples
    --------
    >>> sizes_of_resolution((20000, 1), (20000, 1), "cm"), sizes_of_resolution((72, 1), (72, 1), "inch")
    ((0.5, 0.5), None)
    >>> sizes_of_resolution(2.0, "2", "um"), sizes_of_resolution((1, 0), None, "um")
    ((0.5, 0.5), None)
    """
    sides = []
    for value in (y, x):
        per_unit = _number(value)
        sides.append(micrometres(1 / per_unit, unit) if per_unit else None)
    size = pixel_size(*sides)
    return size if size is not None and max(size) <= LARGEST else None


def sizes_of_slide(description: str) -> PixelSize | None:
    """Read the micrometres a pixel (MPP) in the description of an Aperio slide.

    Examples
    --------
    >>> sizes_of_slide("Aperio Image Library|AppMag = 20|MPP = 0.4990")
    (0.499, 0.499)
    """
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", description)
    side = micrometres(found.group(1), "um") if found else None
    return pixel_size(side, side)


def sizes_of_instrument(tiff: Any) -> PixelSize | None:
    """Read the pixel size in the metadata of a microscope's own kind of TIFF.

    Zeiss LSM and SEM, MetaMorph STK, Olympus SIS, FEI and Micro-Manager. Damaged metadata state nothing.

    Parameters
    ----------
    tiff : tifffile.TiffFile
    """
    for side_y, side_x, unit in _instrument_sides(tiff):
        size = pixel_size(micrometres(side_y, unit), micrometres(side_x, unit))
        if size is not None:
            return size
    return None


def _instrument_sides(tiff: Any) -> Iterator[tuple[Any, Any, str]]:
    with contextlib.suppress(Exception):
        if tiff.is_lsm:
            yield tiff.lsm_metadata["VoxelSizeY"], tiff.lsm_metadata["VoxelSizeX"], "m"
    with contextlib.suppress(Exception):
        if tiff.is_stk:
            stk = tiff.stk_metadata
            yield stk["YCalibration"], stk["XCalibration"], str(stk.get("CalibrationUnits", "um"))
    with contextlib.suppress(Exception):
        if tiff.is_sis:
            yield tiff.sis_metadata["pixelsizey"], tiff.sis_metadata["pixelsizex"], "m"
    with contextlib.suppress(Exception):
        if tiff.is_fei:
            scan = tiff.fei_metadata["Scan"]
            yield scan["PixelHeight"], scan["PixelWidth"], "m"
    with contextlib.suppress(Exception):
        if tiff.is_sem:
            _, size, unit = tiff.sem_metadata["ap_pixel_size"]
            yield size, size, str(unit)
    with contextlib.suppress(Exception):
        if tiff.is_micromanager:
            size = tiff.pages.first.tags["MicroManagerMetadata"].value["PixelSizeUm"]
            yield size, size, "um"


def _number(value: Any) -> float:
    """Return a positive number of a fraction, a number or a text; 0 where it is none."""
    try:
        if isinstance(value, (tuple, list)) and len(value) == 2:
            value = value[0] / value[1]
        elif isinstance(value, (tuple, list)):
            value = value[0]
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, IndexError, OverflowError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def ome_tree(xml: str | None) -> ElementTree.Element | None:
    """Parse OME-XML; ``None`` where there is none or it is damaged.

    Examples
    --------
    >>> ome_tree("<OME><Image") is None
    True
    """
    try:
        return ElementTree.fromstring(xml) if xml else None
    except (ElementTree.ParseError, ValueError):
        return None


def ome_size(attributes: Mapping[str, str]) -> PixelSize | None:
    """Read the pixel size among the attributes of OME-XML's ``Pixels``.

    Examples
    --------
    >>> ome_size({"PhysicalSizeX": "0.5", "PhysicalSizeY": "250", "PhysicalSizeYUnit": "nm"})
    (0.25, 0.5)
    """
    sides = (
        micrometres(attributes.get(f"PhysicalSize{axis}"), attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "YX"
    )
    return pixel_size(*sides)
