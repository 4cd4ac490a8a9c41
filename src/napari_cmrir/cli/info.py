"""``napari-cmrir info``: describe a model or a repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["info"]


def info(
    path: Annotated[Path, typer.Argument(help="Model file, repository, or starter for the starter model.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every checksum of a repository.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the properties of a model or a repository."""
    from napari_cmrir.errors import InputError
    from napari_cmrir.representations.model_file import find_model

    path = find_model(path)
    if not path.exists():
        raise InputError(f"There is no {path}; give a model file or a repository.")
    if verify and path.is_dir():
        _verify(path)
    card = _repository_card(path) if path.is_dir() else _model_card(path)
    if as_json:
        typer.echo(json.dumps(card, indent=1))
    else:
        _print_card(card)
    if verify and path.is_dir():
        typer.echo("Every checksum is right.", err=as_json)


def _verify(path: Path) -> None:
    """Print the problems of a repository, even if it cannot be opened, and exit if there are any."""
    from napari_cmrir.cli.progress import draw
    from napari_cmrir.repository.maintenance import verify_repository

    problems = draw(verify_repository(path), "Verifying")
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)


def _model_card(path: Path) -> dict[str, Any]:
    from napari_cmrir.representations.base import load_model

    model = load_model(path)
    history = model.history
    return {
        "model": str(path),
        "representation": model.name,
        "modalities": "any two" if model.takes_any_modality else list(model.modalities),
        **({"caveat": model.caveat} if model.caveat else {}),
        "channels": model.channels,
        "pixel size (micrometres)": model.pixel_size,
        "parameters": _count_parameters(model),
        "fingerprint": model.fingerprint,
        "score": model.score,
        "steps": history[-1]["step"] if history else None,
        "last loss": history[-1]["loss"] if history else None,
        "training seconds": round(sum(entry["seconds"] for entry in history), 1),
        "validations": [
            f"step {entry['step']}: {entry['retrieval']:.3f}" for entry in history if "retrieval" in entry
        ],
        "intensity": {m: i.model_dump(mode="json") for m, i in model.intensities.items()},
        **model.described(),
        **model.provenance,
    }


def _count_parameters(model: Representation) -> dict[str, int]:
    """Count the weights of each modality, without running statistics of batches."""
    counts: dict[str, int] = {}
    for name, tensor in model.tensors().items():
        if tensor.is_floating_point() and "running_" not in name:
            modality = "any modality" if model.takes_any_modality else name.partition("/")[0]
            counts[modality] = counts.get(modality, 0) + tensor.numel()
    return counts


def _repository_card(path: Path) -> dict[str, Any]:
    from napari_cmrir.repository.repository import open_repository

    return open_repository(path).summary()


def _print_card(card: dict[str, Any], indent: str = "") -> None:
    for name, value in card.items():
        if isinstance(value, dict) and value:
            typer.echo(f"{indent}{name}:")
            _print_card(value, indent + "  ")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            typer.echo(f"{indent}{name}: {shown}" if shown not in (None, "", {}) else f"{indent}{name}: -")
