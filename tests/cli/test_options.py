"""Options that are generated from settings models."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from napari_cmrir.cli.evaluate import PROTOCOL
from napari_cmrir.cli.options import READING, SettingsOptions, settings_options
from napari_cmrir.cli.query import SEARCH
from napari_cmrir.cli.train import TRAINING
from napari_cmrir.errors import InputError
from napari_cmrir.representations.training_settings import PRESETS
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.settings import ReadingSettings


def parse(options: SettingsOptions, *arguments: str) -> dict:
    """The values that a verb with these options receives."""
    app, received = typer.Typer(), {}

    @app.command()
    @settings_options(values=options)
    def verb(*, values: dict) -> None:
        received.update(values)

    ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ended.exit_code == 0, ended.output
    return received


def test_what_is_not_given_leaves_the_preset_as_it_is():
    given = parse(TRAINING, "--steps", 7, "--widths", 4, "--widths", 8)
    assert given == {"steps": 7, "widths": (4, 8)}
    paper = TRAINING.settings(given, PRESETS["paper"])
    assert paper == PRESETS["paper"].model_copy(update={"steps": 7, "widths": (4, 8)})


def test_a_switch_of_a_preset_can_be_turned_off():
    assert parse(SEARCH, "--mirror", "--no-fine-rescore") == {"mirror": True, "fine_rescore": False}


def test_names_of_the_contract():
    given = parse(SEARCH, "-k", 3, "--rerank", "bow", "--max-rotation", 180)
    assert SEARCH.settings(given) == SearchSettings(hits=3, rerank="bow", max_rotation=180)
    assert parse(PROTOCOL, "--k", 1, "--k", 5) == {"ranks": (1, 5)}
    assert parse(SEARCH, "--hits", 3) == {"hits": 3}


def test_numbers_and_words_of_the_same_option():
    given = parse(READING, "--z", 2, "--channel", "DAPI", "--channel", 0, "--t", 0)
    assert READING.settings(given) == ReadingSettings(z=2, channels=("DAPI", 0), t=0)
    assert parse(READING, "--z", "max") == {"z": "max"}


@pytest.mark.parametrize(
    ("options", "given", "sentence"),
    [
        (READING, {"channels": (-1,)}, r"^--channel cannot be -1: .*\.$"),
        (READING, {"z": "sideways"}, r"^--z cannot be 'sideways': .*\.$"),
        (
            SEARCH,
            {"rotation_step": 0.0},
            r"^--rotation-step cannot be 0\.0: Input should be greater than 0\.$",
        ),
        (TRAINING, {"stem": 3}, r"^--stem cannot be 3: .*\.$"),
        (TRAINING, {"channels": 9}, r"^--comir-channels cannot be 9: .*\.$"),
    ],
)
def test_a_value_out_of_bounds_names_its_option(options, given, sentence):
    with pytest.raises(InputError, match=sentence):
        options.settings(given)


def test_the_published_search_ranks_by_words_alone():
    paper = SearchSettings.paper()
    assert (paper.rerank, paper.shortlist, paper.shortlist_by, paper.register_all) == ("bow", 30, "words", 0)


def test_the_help_imports_nothing_that_computes():
    code = (
        "import sys\n"
        "from napari_cmrir.cli.main import main\n"
        "try:\n    main(['query', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('imported:', *{'torch', 'cv2', 'numpy', 'napari', 'dask'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].split() == ["imported:"]
    for option in ("--max-rotation", "--rerank", "--series", "--channel", "--pixel-size", "--preset"):
        assert option in ended.stdout
