"""Values that were fitted to data: they ship in ``fitted_values.json``, each with its provenance."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = ["FittedValues", "fitted_values"]


class FittedValues(BaseModel):
    """Values of one subject and where they come from.

    A provenance that nobody recorded is ``"unknown"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: dict[str, float] = Field(min_length=1, description="Value by name.")
    meaning: str = Field(min_length=1, description="What the values are, with units.")
    fitted_to: str = Field(min_length=1, description="Data that the values were fitted to.")
    date: str = Field(min_length=1, description="Date of the fit, YYYY-MM-DD.")
    command: str = Field(min_length=1, description="Command that prints or repeats the fit.")


@cache
def _read() -> dict[str, FittedValues]:
    """Read the shipped file once."""
    file = Path(__file__).with_suffix(".json")
    return TypeAdapter(dict[str, FittedValues]).validate_json(file.read_bytes())


def fitted_values(subject: str) -> FittedValues:
    """Give the values of a subject.

    Parameters
    ----------
    subject : {"confidence", "wrong_score_prior", "fine_scores", "contrast", "likeness"}

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
