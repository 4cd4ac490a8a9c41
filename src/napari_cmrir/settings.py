"""The base of all settings, those of reading and of registration, and values fitted by scripts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from napari_cmrir.errors import InputError

__all__ = [
    "HIGH_PASS_PX",
    "PAIR_PATTERN",
    "SCORE_WEIGHTS",
    "SETTINGS_VERSION",
    "Comparison",
    "FittedValues",
    "ReadingSettings",
    "RegistrationSettings",
    "ScoreWeights",
    "Settings",
    "dump_settings",
    "fitted_values",
    "load_settings",
]

SETTINGS_VERSION = 1
"""Version of stored settings; increase it when a setting changes its name or its meaning."""

_VERSION_KEY = "settings_version"


class Settings(BaseModel):
    """A frozen settings model that refuses unknown names.

    The description of each field gives its unit, bounds, default and source. The options of the command line
    and the forms of the docks are generated from the fields.

    Examples
    --------
    >>> class Example(Settings):
    ...     steps: int = 10
    >>> Example(step=3)
    Traceback (most recent call last):
        ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Example
    ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def dump_settings(settings: BaseModel) -> dict[str, Any]:
    """Convert settings to JSON values, with the version of the settings.

    Parameters
    ----------
    settings : pydantic.BaseModel

    Returns
    -------
    dict

    Examples
    --------
    >>> class Example(Settings):
    ...     steps: int = 10
    >>> dump_settings(Example())
    {'settings_version': 1, 'steps': 10}
    """
    return {_VERSION_KEY: SETTINGS_VERSION, **settings.model_dump(mode="json")}


def load_settings(model_class: type[Model], data: Mapping[str, Any], where: str = "A file") -> Model:
    """Read stored settings; unknown settings are left out with a warning.

    Parameters
    ----------
    model_class : type
        The settings model.
    data : mapping
        Result of `dump_settings`.
    where : str
        Name of the file that holds the settings, for messages.

    Returns
    -------
    model_class

    Warns
    -----
    UserWarning
        If settings are left out; the message names them.

    Raises
    ------
    InputError
        If the data are not a mapping, or a value is missing or invalid.

    Examples
    --------
    >>> class Example(Settings):
    ...     steps: int = 10
    >>> load_settings(Example, {"settings_version": 1, "steps": 3}).steps
    3
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where} holds no settings where they are expected; restore it from a copy.")
    known = copy.deepcopy(dict(data))
    version = known.pop(_VERSION_KEY, SETTINGS_VERSION)
    try:
        return model_class.model_validate(known)
    except ValidationError as error:
        unknown = [problem["loc"] for problem in error.errors() if problem["type"] == "extra_forbidden"]
    for *groups, name in unknown:
        group: Any = known
        for key in groups:
            group = group[key]
        del group[name]
    try:
        settings = model_class.model_validate(known)
    except ValidationError as error:
        problem = error.errors()[0]
        setting = ".".join(map(str, problem["loc"]))
        reason = f"{setting}: {problem['msg']}" if setting else str(problem["msg"])
        hint = "update napari-cmrir" if version != SETTINGS_VERSION else "it may need a newer napari-cmrir"
        raise InputError(f"{where} holds a setting that cannot be used ({reason}); {hint}.") from None
    names = ", ".join(".".join(map(str, path)) for path in unknown)
    warnings.warn(
        f"{where} holds settings that this napari-cmrir does not know and leaves out: {names}.", stacklevel=2
    )
    return settings


class FittedValues(BaseModel):
    """Values of one subject and their provenance; a provenance that was not recorded is ``"unknown"``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: dict[str, float] = Field(min_length=1, description="Value by name.")
    meaning: str = Field(min_length=1, description="What the values are, with units.")
    fitted_to: str = Field(min_length=1, description="Data that the values were fitted to.")
    date: str = Field(min_length=1, description="Date of the fit, YYYY-MM-DD.")
    command: str = Field(min_length=1, description="Command that prints or repeats the fit.")


@cache
def _read() -> dict[str, FittedValues]:
    """Read the shipped file of fitted values."""
    file = Path(__file__).with_name("fitted_values.json")
    return TypeAdapter(dict[str, FittedValues]).validate_json(file.read_bytes())


def fitted_values(subject: str) -> FittedValues:
    """Return the fitted values of a subject.

    Parameters
    ----------
    subject : {"confidence", "wrong_score_prior", "fine_scores", "starter_fine_scores", "contrast",
        "likeness"}

    Returns
    -------
    FittedValues

    Raises
    ------
    KeyError
        If the file has no such subject.

    Examples
    --------
    >>> fitted_values("fine_scores").values["gradient_weight"]
    2.0
    """
    return _read()[subject]


_Index = Annotated[int, Field(ge=0)]


PAIR_PATTERN = "<identifier>_<MODALITY>"
"""How the two files of a pair are named by default, without their suffix."""


class ReadingSettings(Settings):
    """Series, level, plane, time, channels and pixel size to read from a file.

    All numbers count from 0. `open_image` chooses values that are not set, and states its choice in
    `LazyImage.reading_note`.

    Examples
    --------
    >>> ReadingSettings(z="middle", channels=("DAPI", 2)).channels
    ('DAPI', 2)
    """

    series: _Index | None = Field(
        None, description="Series (image) of the file, counted from 0; by default the largest."
    )
    level: _Index | None = Field(
        None,
        description="Level of the pyramid, 0 the finest; by default the coarsest level that is no coarser"
        " than the model's pixel size, or the finest if a pixel size is unknown.",
    )
    z: _Index | Literal["max", "middle"] | None = Field(
        None,
        description="Plane of a stack, counted from 0; max: its maximum projection; middle: its middle plane;"
        " by default max for grey images and middle for RGB.",
    )
    t: _Index = Field(0, description="Point in time, counted from 0.")
    channels: tuple[_Index | str, ...] | None = Field(
        None,
        description="Numbers or names of the channels, in this order; by default all.",
        min_length=1,
    )
    pixel_size: float | None = Field(
        None,
        gt=0,
        json_schema_extra={"unit": "µm", "decimals": 4},
        description="Side of a pixel of the finest level, micrometres; by default the value in the file.",
    )


HIGH_PASS_PX = 16.0
"""Default standard deviation of the high pass, in pixels of full resolution.

Training minimises its loss on CoMIRs under this filter, so a search compares CoMIRs under the same filter.
The value 16 is not measured; a larger one keeps coarser structure, which agrees more often by chance.
"""


class ScoreWeights(NamedTuple):
    """Weights of the terms of a registration score; their sum is brought to 1.

    Parameters
    ----------
    correlation, band, directions : float
        Of the correlation, of that of the finest band, and of the agreement of gradient directions.

    Examples
    --------
    >>> ScoreWeights.fitted("fine_scores")
    ScoreWeights(correlation=1.0, band=1.0, directions=2.0)
    """

    correlation: float
    band: float
    directions: float

    @classmethod
    def fitted(cls, subject: str) -> ScoreWeights:
        """Read the weights of a subject of `fitted_values`."""
        values = fitted_values(subject).values
        return cls(*(values[f"{term}_weight"] for term in ("correlation", "band", "gradient")))


SCORE_WEIGHTS = ScoreWeights.fitted("fine_scores")
"""Weights of models that were trained on pairs."""


class Comparison(NamedTuple):
    """How the images of a representation are compared.

    Parameters
    ----------
    high_pass_px : float
        Standard deviation of the high pass before every comparison, in pixels of full resolution; 0 compares
        them unfiltered.
    score_weights : ScoreWeights
        Weights of the terms of a registration score.

    Examples
    --------
    >>> Comparison().high_pass_px
    16.0
    """

    high_pass_px: float = HIGH_PASS_PX
    score_weights: ScoreWeights = SCORE_WEIGHTS


class RegistrationSettings(Settings):
    """How a query is registered with fields.

    A default whose description names no source is this package's own. `benchmarks/search_ablation.py`
    measures the search without rotations, with a doubled rotation step and without refinement.

    Examples
    --------
    >>> RegistrationSettings().max_rotation
    30.0
    """

    max_rotation: float = Field(
        30.0,
        ge=0,
        le=180,
        json_schema_extra={"unit": "°", "decimals": 0},
        description="Largest rotation tried, in degrees either way; 180 is the full circle (paper: 30).",
    )
    rotation_step: float = Field(
        6.0, gt=0, le=45, description="Distance between the rotations of the coarse search, in degrees."
    )
    mirror: bool = Field(
        False,
        description="Also try the query mirrored left to right, for sections mounted upside down.",
    )
    max_scale: float = Field(
        1.0,
        ge=1,
        le=2,
        description="Largest factor by which the query is shrunk and enlarged; 1 tries its own size only.",
    )
    scale_step: float = Field(
        1.06, gt=1, le=1.5, description="Ratio of successive sizes, if max_scale is above 1."
    )
    min_overlap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Smallest share of the query that must lie on a field; the rest may hang over its edge.",
    )
    refine: int = Field(
        30,
        ge=0,
        description="Number of fields whose pose is refined, best coarse scores first; 0 keeps the coarse"
        " poses.",
    )
    fine_rescore: bool = Field(
        True,
        description="Average the correlation of a refined pose with two scores of the finest structures: the"
        " correlation of the 2 px band and the agreement of gradient directions.",
    )
