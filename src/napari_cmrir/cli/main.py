"""The entry point: registers the commands, and turns errors into messages and exit statuses."""

from __future__ import annotations

import os
import sys

import typer

from napari_cmrir import __version__
from napari_cmrir.cli import demo, evaluate, index, info, pair, query, represent, train
from napari_cmrir.errors import InputError, in_words

__all__ = ["app", "main"]

app = typer.Typer(
    name="napari-cmrir",
    help="Find the tissue of an image region in images of another modality.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (demo.demo, train.train, represent.represent, index.index, query.query, info.info):
    app.command()(verb)
app.command(name="import-checkpoint")(train.import_checkpoint)
app.command(cls=pair.pair_command)(pair.pair)
app.command(cls=evaluate.evaluate_command)(evaluate.evaluate)
app.command(cls=evaluate.study_command)(evaluate.study)
app.add_typer(evaluate.datasets)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"napari-cmrir {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", callback=_print_version, is_eager=True
    ),
) -> None:
    """Find the tissue of an image region in images of another modality."""


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
