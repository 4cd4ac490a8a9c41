"""The entry point: the commands, errors as messages and exit statuses, and the command ``info``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_cmrir.cli import demo, evaluate, index, query, train
from napari_cmrir.errors import InputError, in_words

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["app", "main"]

app = typer.Typer(
    name="napari-cmrir",
    help="Find the tissue of an image region in images of another modality.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (demo.demo, train.train, index.represent, index.index, query.query):
    app.command()(verb)
app.command(name="import-checkpoint")(train.import_checkpoint)
app.command(cls=train.pair_command)(train.pair)
app.command(cls=evaluate.evaluate_command)(evaluate.evaluate)
app.command(cls=evaluate.study_command)(evaluate.study)
app.add_typer(evaluate.datasets)


def _print_version(wanted: bool) -> None:
    if wanted:
        from napari_cmrir import __version__  # reads the installed distribution

        typer.echo(f"napari-cmrir {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", callback=_print_version, is_eager=True
    ),
) -> None:
    """Find the tissue of an image region in images of another modality."""


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="Model file, repository, or starter for the starter model.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check every checksum of a repository.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the properties of a model or a repository."""
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
    from napari_cmrir.cli.jobs import draw
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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status.

    0 is done, 2 bad use or bad input (one line on stderr), 1 a fault, 130 interrupted.

    Parameters
    ----------
    arguments : list of str, optional
        By default those of the process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would slow down a busy machine
    try:
        status = app(arguments, prog_name="napari-cmrir", standalone_mode=False)
    except InputError as error:
        sys.exit(_complain(str(error)))
    except (typer.Abort, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        refusal = in_words(error)
        if refusal is None:
            raise
        sys.exit(_complain(str(refusal)))
    except Exception as error:
        explain = getattr(error, "format_message", None)  # click's or typer's own exception for bad use
        if explain is None:
            raise
        context = getattr(error, "ctx", None)
        verb = context.command_path if context else "napari-cmrir"
        wrong = explain().rstrip(".") or "Give a command"
        sys.exit(_complain(f"{wrong}; see '{verb} --help'."))
    sys.exit(status or 0)


def _complain(message: str) -> int:
    print(f"napari-cmrir: {message}", file=sys.stderr)
    return 2
