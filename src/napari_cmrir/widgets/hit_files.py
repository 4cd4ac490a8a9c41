"""Files of hits: CSV, JSON as the command line writes it, GeoJSON, and the registered crop as OME-TIFF."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut

if TYPE_CHECKING:
    from napari_cmrir.search.hits import Hit
    from napari_cmrir.widgets.query import Found

__all__ = [
    "cut_upright",
    "write_csv",
    "write_geojson",
    "write_json",
    "write_records",
    "write_registered_crop",
]

_CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")


def write_csv(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write a table of hits, a row each.

    Parameters
    ----------
    path : Path
        Where to.
    found : Found
        The hits.
    rank : int, optional
        Of no meaning here.
    """
    return write_records(path, [hit.as_dict() for hit in found.result.hits])


def write_json(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write hits as ``napari-cmrir query --json`` does; the parameters are those of `write_csv`."""
    region = found.region
    y, x = region.centre
    answer = {
        "image": found.query.image.path or found.query.image.name,
        "region": [y - region.height / 2 + 0.5, x - region.width / 2 + 0.5, region.height, region.width],
        "rotation_degrees": region.rotation_degrees,
        "seconds": round(found.result.seconds, 4),
        "hits": [hit.as_dict() for hit in found.result.hits],
    }
    return _write(path, json.dumps({"queries": [answer]}, indent=1) + "\n")


def write_geojson(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write match boxes as GeoJSON polygons in (x, y) px; the parameters are those of `write_csv`."""
    return write_records(path, [hit.as_dict() for hit in found.result.hits])


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write hits as the file's name says: .csv, .geojson or .json.

    Parameters
    ----------
    path : Path
        Where to.
    records : list of dict
        `Hit.as_dict` of each.

    Raises
    ------
    InputError
        The name ends otherwise, or the file cannot be written.
    """
    ending = path.suffix.lower()
    if ending == ".csv":
        return _write(path, _csv(records))
    if ending == ".geojson":
        features = [_feature(record) for record in records]
        return _write(path, json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n")
    if ending == ".json":
        return _write(path, json.dumps({"queries": [{"hits": records}]}, indent=1) + "\n")
    raise InputError(f"{path.name} does not say what to write; end it in .csv, .json or .geojson.")


def write_registered_crop(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write the hit under the region, and the region, as two images of equal size of an OME-TIFF.

    Parameters
    ----------
    path : Path
        Where to.
    found : Found
        The hits.
    rank : int, optional
        Which one, by default the first.

    Raises
    ------
    InputError
        The hit's image cannot be read, or the file cannot be written.
    """
    import tifffile

    from napari_cmrir.images.readers import read_image

    hit: Hit = next(hit for hit in found.result.hits if hit.rank == (rank or 1))
    crop = cut_upright(read_image(hit.image), hit.box)
    region, _ = cut(found.query.image.read(), found.region)
    units, size = found.query.placement.units, found.query.placement.pixel_size
    names = (f"{Path(hit.image).name}, registered", f"{found.query.image.name}, region")
    try:
        with tifffile.TiffWriter(path, ome=True) as file:
            for name, pixels in zip(names, (crop, region), strict=True):
                colour = pixels.shape[2] == 3
                shown = pixels if colour else np.moveaxis(pixels, -1, 0)
                metadata: dict[str, Any] = {"Name": name, "axes": "YXS" if colour else "CYX"}
                unit = _ome_unit(str(units[found.query.placement.plane.axes[0]]))
                if unit is not None:
                    metadata |= {
                        "PhysicalSizeY": round(float(size[0]), 9),
                        "PhysicalSizeX": round(float(size[1]), 9),
                        "PhysicalSizeYUnit": unit,
                        "PhysicalSizeXUnit": unit,
                    }
                photometric = "rgb" if colour else "minisblack"
                file.write(shown, photometric=photometric, metadata=metadata, compression="zlib")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from None
    return path


def cut_upright(pixels: NDArray[Any], box: NDArray[np.float64], pixel_step: float = 1.0) -> NDArray[Any]:
    """Cut a match box out of an image, as the query lies: upright, and mirrored back where it was mirrored.

    Parameters
    ----------
    pixels : ndarray, (y, x, channel)
        The image.
    box : ndarray, (4, 2)
        The corners, as `Hit.box`.
    pixel_step : float
        Distance of the samples in px.

    Returns
    -------
    ndarray, (height, width, channel)

    Examples
    --------
    >>> pixels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    >>> box = Region.whole((2, 3)).corners()
    >>> cut_upright(pixels, box[[1, 0, 3, 2]])[..., 0].tolist()
    [[2, 1, 0], [5, 4, 3]]
    """
    (right_y, right_x), (down_y, down_x) = box[1] - box[0], box[3] - box[0]
    mirrored = right_x * down_y - right_y * down_x < 0
    patch, _ = cut(pixels, Region.from_corners(box[[1, 0, 3, 2]] if mirrored else box), pixel_step=pixel_step)
    return patch[:, ::-1] if mirrored else patch


def _csv(records: list[dict[str, Any]]) -> str:
    corners = [f"{corner}_{axis}" for corner in _CORNERS for axis in "yx"]
    plain = [name for name in (records[0] if records else {"rank": 0}) if name != "box"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*plain, *corners])
    for record in records:
        table.writerow([*(record[name] for name in plain), *np.ravel(record["box"]).tolist()])
    return text.getvalue()


def _feature(record: dict[str, Any]) -> dict[str, Any]:
    ring = [[x, y] for y, x in (*record["box"], record["box"][0])]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {name: value for name, value in record.items() if name != "box"},
    }


def _ome_unit(unit: str) -> str | None:
    names = {"micrometer": "µm", "nanometer": "nm", "millimeter": "mm"}
    return names.get(unit.replace("metre", "meter"))


def _write(path: Path, text: str) -> Path:
    from napari_cmrir.comir.model import write_whole

    try:
        write_whole(Path(os.path.abspath(path)), text.encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from None
    return path
