"""Hits and the result of a search; and hits for other programs.

These are written as tables, JSON, QuPath's GeoJSON, and transforms for registration tools.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_write
from napari_cmrir.settings import ReadingSettings

if TYPE_CHECKING:
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.search.calibration import Evidence

__all__ = [
    "Hit",
    "SearchResult",
    "affine_matrix",
    "as_csv",
    "as_elastix",
    "as_geojson",
    "as_itk",
    "as_json",
    "as_matrix",
    "write_hits",
]


@dataclass(frozen=True, eq=False)
class Hit:
    """A place in an image of the repository where the query's tissue may be.

    Parameters
    ----------
    rank : int
        1 is the best.
    image : str
        Path of the image, or the name of an array that was indexed.
    score : float
        Orders the hits. With registration: agreement of the registered CoMIRs (correlation and fine scores)
        times their overlap, in [-1, 1]. With ``rerank`` none or bow: cosine of the bags of words, in [0, 1].
    box : (4, 2) array
        Corners (y, x) of the query in the image's pixels: its top-left, top-right, bottom-right, bottom-left.
    rotation_degrees : float
        Counter-clockwise rotation, as seen on the screen, that takes the query to the hit.
    confidence : float
        Probability in [0, 1] that the image shows the query's tissue; see `calibration`.
    field : int
        Row of the repository's fields.
    scores : dict
        Score of every stage: ``"words"``, ``"bow"``, ``"registration"``, ``"matcher"``.
    mirrored : bool
        Whether the query was mirrored left to right before it was rotated.
    scale : float
        Factor by which the query was enlarged.
    runner_up : float
        Score of the next best, different pose in the same field; -inf if there is none.
    reading : ReadingSettings
        How the image was read when it was indexed: `open_image` of `image` with it opens the pixels in which
        `box` lies.
    """

    rank: int
    image: str
    score: float
    box: NDArray[np.float64]
    rotation_degrees: float
    confidence: float
    field: int
    scores: dict[str, float]
    mirrored: bool = False
    scale: float = 1.0
    runner_up: float = -np.inf
    reading: ReadingSettings = dataclasses.field(default_factory=ReadingSettings)

    def as_dict(self) -> dict[str, Any]:
        """Return the hit as the command line writes it to JSON."""
        reading = self.reading.model_dump(mode="json", exclude_defaults=True)
        return {
            "rank": self.rank,
            "image": self.image,
            "score": round(self.score, 6),
            "box": np.round(self.box, 3).tolist(),
            "rotation_degrees": round(self.rotation_degrees, 3),
            "confidence": round(self.confidence, 6),
            "mirrored": self.mirrored,
            "scale": round(self.scale, 6),
            **({"matcher": round(self.scores["matcher"], 6)} if "matcher" in self.scores else {}),
            **({"reading": reading} if reading else {}),
        }


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The ranked hits of one query.

    Parameters
    ----------
    hits : tuple of Hit
        Best first; at most one for each image, or for each field with the setting `per_field`.
    seconds : float
        Time taken.
    timings : dict
        Seconds of each stage by its name.
    comir : (channel, y, x) uint8 array
        The query's CoMIR, upright. Outside the outline it repeats the nearest pixel inside.
    mask : (y, x) bool array
        True where the query counts.
    shortlist : (n,) int array
        All re-ranked fields, best first: more than ``hits``, and several per image.
    ranking : (n,) int array
        The best field of every image, best image first; ``hits`` are the first of them.
    words : (n,) float array
        Cosine of the bags of words, of every field.
    screening : (n,) float array or None
        Correlation with the thumbnail of every field, if screening chose the shortlist.
    region : Region or None
        The query's region, in pixels of its image.
    evidence : Evidence or None
        Registration scores of every registered image.
    reliable : bool
        Whether the confidence of the first hit reaches ``reliable_from``. If not, or if the region
        is blank, the search reports "no reliable match".
    warnings : tuple of str
        Sentences for the user: reasons to doubt the query.
    assumptions : tuple of str
        The warnings that apply to every query of the image: unknown pixel sizes.
    """

    hits: tuple[Hit, ...]
    seconds: float
    timings: dict[str, float]
    comir: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    shortlist: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    ranking: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    words: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    region: Region | None = None
    evidence: Evidence | None = None
    reliable: bool = True
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    screening: NDArray[np.float32] | None = None


_CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")
_COLUMNS = (
    *("query", "rank", "image", "score", "confidence", "rotation_degrees", "mirrored", "scale"),
    *(f"{corner}_{axis}" for corner in _CORNERS for axis in ("y", "x")),
)


def affine_matrix(region: Region, hit: Hit) -> NDArray[np.float64]:
    """Return the transform from the query's image to the hit's.

    Parameters
    ----------
    region : Region
        The query's region, in pixels of its image (``result.region``).
    hit : Hit
        The hit.

    Returns
    -------
    (3, 3) array
        Takes (y, x, 1) in pixels of the query's image to (y, x, 1) in pixels of the hit's image, where pixel
        centres are integers: ready as napari's ``affine`` of the query's layer.

    Examples
    --------
    >>> from napari_cmrir.images.geometry import Region
    >>> region = Region.from_rectangle(10, 20, 64, 64)
    >>> hit = Hit(1, "a.tif", 0.5, region.corners() + [5, -3], 0.0, 0.9, 0, {})
    >>> affine_matrix(region, hit).round(6).tolist()
    [[1.0, 0.0, 5.0], [0.0, 1.0, -3.0], [0.0, 0.0, 1.0]]
    """

    def frame(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """The matrix that takes the unit square to a parallelogram of these corners."""
        matrix = np.eye(3)
        matrix[:2] = np.stack((corners[3] - corners[0], corners[1] - corners[0], corners[0]), 1)
        return matrix

    matrix: NDArray[np.float64] = frame(hit.box) @ np.linalg.inv(frame(region.corners()))
    return matrix


def as_csv(answers: Sequence[tuple[str, Sequence[Hit]]]) -> str:
    """Write hits as a table with one row for each.

    Parameters
    ----------
    answers : sequence of (str, sequence of Hit)
        The name of each query, and its hits.

    Returns
    -------
    str
        CSV with a heading; corners in pixels of the hit's image, where pixel centres are integers.

    Examples
    --------
    >>> as_csv([]).split(",")[:3]
    ['query', 'rank', 'image']
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for query, hits in answers:
        for hit in hits:
            content = hit.as_dict()
            corners = [value for corner in content.pop("box") for value in corner]
            writer.writerow([query, *(content[name] for name in _COLUMNS[1:8]), *corners])
    return buffer.getvalue()


def as_json(answers: Sequence[tuple[str, SearchResult | Sequence[Hit] | InputError]]) -> str:
    """Write queries and their hits, as ``napari-cmrir query --json`` and Find region do.

    Parameters
    ----------
    answers : sequence of (str, SearchResult or sequence of Hit)
        The name of each query, and its result. Hits alone are written without region, time and warnings.

    Returns
    -------
    str
        An object whose ``queries`` hold, each, ``image``, ``region`` (y, x, height, width in px, before it is
        turned), ``rotation_degrees`` of that region, ``seconds``, ``hits`` (`Hit.as_dict`; a score that is
        not finite is null), ``reliable``, ``warnings`` and ``error``: null, or why the query failed.

    Examples
    --------
    >>> json.loads(as_json([("query.tif", ())]))
    {'queries': [{'image': 'query.tif', 'hits': []}]}
    """
    queries = [{"image": query, **_found(found)} for query, found in answers]
    return json.dumps({"queries": queries}, indent=1, allow_nan=False) + "\n"


def _found(found: SearchResult | Sequence[Hit] | InputError) -> dict[str, Any]:
    if isinstance(found, InputError):
        return {"error": str(found), "hits": []}
    if not isinstance(found, SearchResult):
        return {"hits": [_record(hit) for hit in found]}
    region = found.region
    asked = (
        {}
        if region is None
        else {
            "region": [round(float(value), 6) for value in region.rectangle],
            "rotation_degrees": round(float(region.rotation_degrees), 6),
        }
    )
    return {
        **asked,
        "seconds": round(found.seconds, 4),
        "error": None,
        "hits": [_record(hit) for hit in found.hits],
        "reliable": found.reliable,
        "warnings": list(found.warnings),
    }


def _record(hit: Hit) -> dict[str, Any]:
    record = hit.as_dict()
    return record if math.isfinite(hit.score) else record | {"score": None}


def as_geojson(answers: Sequence[tuple[str, Sequence[Hit]]]) -> str:
    """Write hits as GeoJSON that QuPath opens as annotations, one feature for each.

    QuPath puts all features of a file onto the open image; ``properties.image`` names the image of each.
    Coordinates are (x, y) in pixels of the hit's image. As in QuPath, the origin is the corner of the first
    pixel: coordinates exceed those of other exports by half a pixel.

    Parameters
    ----------
    answers : sequence of (str, sequence of Hit)
        The name of each query, and its hits.

    Returns
    -------
    str
        A FeatureCollection (RFC 7946's grammar, in pixels).

    Examples
    --------
    >>> json.loads(as_geojson([]))
    {'type': 'FeatureCollection', 'features': []}
    """
    features = [_feature(query, hit) for query, hits in answers for hit in hits]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1, allow_nan=False) + "\n"


def _feature(query: str, hit: Hit) -> dict[str, Any]:
    ring = np.round(hit.box[:, ::-1] + 0.5, 3)
    if _signed_area(ring) < 0:  # RFC 7946 requires outer rings to be counter-clockwise
        ring = ring[::-1]
    measurements = {
        "rank": hit.rank,
        "score": hit.score if math.isfinite(hit.score) else -1.0,
        "confidence": hit.confidence,
        "rotation (degrees)": hit.rotation_degrees,
        "scale": hit.scale,
    }
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()]]},
        "properties": {
            "objectType": "annotation",
            "name": f"{hit.rank}: {query}",
            "classification": {"name": "Match", "color": [240, 160, 0]},
            "measurements": {name: round(float(value), 6) for name, value in measurements.items()},
            "image": hit.image,
            "query": query,
            "mirrored": hit.mirrored,
        },
    }


def _signed_area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def as_matrix(matrix: NDArray[np.float64]) -> str:
    """Write a transform as a text of three rows, for ``numpy.loadtxt``; (y, x), in pixels."""
    return "".join(" ".join(f"{value:.17g}" for value in row) + "\n" for row in matrix)


def as_itk(matrix: NDArray[np.float64]) -> str:
    """Write a transform as an ITK text file (``.tfm``), for SimpleITK, 3D Slicer and ANTs.

    Fixed image: the query's; moving image: the hit's; both with a spacing of 1 and the origin 0, so that a
    physical point is (x, y) in pixels. Resampling the hit's image with it aligns the image with the query.

    Parameters
    ----------
    matrix : (3, 3) array
        `affine_matrix`.

    Returns
    -------
    str

    Examples
    --------
    >>> print(as_itk(np.array([[1, 0, 5], [0, 1, -3], [0, 0, 1.0]])))
    #Insight Transform File V1.0
    #Transform 0
    Transform: AffineTransform_double_2_2
    Parameters: 1 0 0 1 -3 5
    FixedParameters: 0 0
    <BLANKLINE>
    """
    return (
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_2_2\n"
        f"Parameters: {_numbers(_as_xy(matrix))}\nFixedParameters: 0 0\n"
    )


def as_elastix(matrix: NDArray[np.float64], shape: tuple[int, ...]) -> str:
    """Write a transform as elastix' TransformParameters, for transformix.

    Parameters
    ----------
    matrix : (3, 3) array
        `affine_matrix`; fixed and moving image as for `as_itk`.
    shape : tuple of int
        (y, x, ...) of the query's image, which transformix resamples onto.

    Returns
    -------
    str

    Examples
    --------
    >>> as_elastix(np.eye(3), (60, 80)).splitlines()[2]
    '(TransformParameters 1 0 0 1 0 0)'
    """
    return "\n".join(
        (
            '(Transform "AffineTransform")',
            "(NumberOfParameters 6)",
            f"(TransformParameters {_numbers(_as_xy(matrix))})",
            "(CenterOfRotationPoint 0 0)",
            '(InitialTransformParametersFileName "NoInitialTransform")',
            '(InitialTransformParameterFileName "NoInitialTransform")',
            '(HowToCombineTransforms "Compose")',
            "(FixedImageDimension 2)",
            "(MovingImageDimension 2)",
            '(FixedInternalImagePixelType "float")',
            '(MovingInternalImagePixelType "float")',
            f"(Size {shape[1]} {shape[0]})",
            "(Index 0 0)",
            "(Spacing 1 1)",
            "(Origin 0 0)",
            "(Direction 1 0 0 1)",
            '(UseDirectionCosines "true")',
            '(ResampleInterpolator "FinalBSplineInterpolator")',
            "(FinalBSplineInterpolationOrder 1)",
            '(Resampler "DefaultResampler")',
            "(DefaultPixelValue 0)",
            '(ResultImageFormat "tif")',
            '(ResultImagePixelType "float")',
            '(CompressResultImage "false")',
            "",
        )
    )


def _as_xy(matrix: NDArray[np.float64]) -> list[float]:
    """The matrix row by row, then the shift, in (x, y)."""
    return [*matrix[1::-1, 1::-1].ravel(), *matrix[1::-1, 2]]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value + 0.0:.17g}" for value in values)


def write_hits(
    path: str | os.PathLike[str], answers: Sequence[tuple[str, SearchResult | Sequence[Hit]]]
) -> Path:
    """Write hits in the format of the file name's ending.

    Parameters
    ----------
    path : path-like
        Ends in ``.csv`` (a table), ``.geojson`` (boxes for QuPath) or ``.json`` (as ``query --json``). A file
        that exists is replaced.
    answers : sequence of (str, SearchResult or sequence of Hit)
        The name of each query, such as its path, and what was found.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The path ends otherwise, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> hit = Hit(1, "a.tif", 0.5, np.zeros((4, 2)), 0.0, 0.9, 0, {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_hits(f"{folder}/hits.csv", [("query.tif", [hit])]).read_text().splitlines()[1][:18]
    'query.tif,1,a.tif,'
    """
    path = Path(path)
    hits = [(query, found.hits if isinstance(found, SearchResult) else found) for query, found in answers]
    ending = path.suffix.lower()
    if ending == ".csv":
        text = as_csv(hits)
    elif ending == ".geojson":
        text = as_geojson(hits)
    elif ending == ".json":
        text = as_json(answers)
    else:
        raise InputError(f"{path.name} does not say what to write; end it in .csv, .json or .geojson.")
    try:
        atomic_write(path.absolute(), text.encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from None
    return path
