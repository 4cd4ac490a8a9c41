"""The documentation: its snippets and examples run, its options exist, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer.main
from typer.testing import CliRunner

import napari_cmrir as cmrir
from napari_cmrir.cli.main import app
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.representations.training_settings import TrainingSettings

pytestmark = pytest.mark.core

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GENERATED = {"changelog.md", "reference/api.md", "reference/cli.md", "reference/settings.md"} | {
    f"tutorials/{path.stem}.md" for path in EXAMPLES
}
OTHER_DATA = re.compile(r"shg_bf/|vis_ir/|(?:shg|vis|pix2pix)\.safetensors")
"""Public data and their models, which are not part of the project: such commands are only parsed."""

OWN_TESTS = re.compile(r" demo | datasets fetch |napari-cmrir pair | --adapt | --check| vismatch:")
"""Commands that take minutes, or need the network or an extra; other tests run them in small."""

QUICK = "--steps 1 --widths 8 --widths 8 --batch-size 4 --patch-size 64 --validation-share 0"
OUTPUTS = {  # what the first hit of each example has to be, and more that it prints
    "train_on_pairs": ["1 sample-014_BF.tif"],
    "no_pairs": ["scan0.tif is section9.tif turned by 0", "trained on 3 pairs"],
    "whole_slide": ["found at [500. 700.]", "(1600, 2400, 3) pixels of 0.5"],
    "batch": [
        *(f"sample-0{n}_SHG.tif -> sample-0{n}_BF.tif" for n in range(20, 26)),
        "broken_SHG.tif is not",
    ],
    "cluster": ["8 images indexed by two workers", "first hit: sample-005_BF.tif"],
}


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a page in one language, without the indentation of the list that they stand in."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def commands(page: Path) -> list[str]:
    """Command lines of a page, without comments."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s+#.*", "", one).strip() for one in lines) if line]


def verb_of(words: list[str]):
    """The command that the words name, and its arguments."""
    command, rest = typer.main.get_command(app), words
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


ALL_COMMANDS = sorted({line for page in PAGES for line in commands(page)})


@pytest.mark.parametrize("line", ALL_COMMANDS)
def test_every_command_of_the_documentation_exists_with_its_options(line):
    words = shlex.split(line.replace("\\", "/"))
    if words[0] == "napari-cmrir":
        verb, arguments = verb_of(words[1:])
        verb.make_context("verb", list(arguments))  # raises an error for an unknown option or a bad value
    elif words[0].endswith("python") and words[1].endswith(".py"):
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in words if word.startswith("--")), line
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif words[0] == "pip":
        extras = re.findall(r"\[(\w+)\]", line)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert set(extras) <= set(project["optional-dependencies"])
    else:
        assert words[0] in ("napari", "source", "python", "dask"), line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with generated files under the names of the documentation."""
    top = tmp_path_factory.mktemp("docs")
    pairs = write_sample_folder(top / "validation_pairs", range(4), 256)
    shutil.copytree(top / "validation_pairs", top / "pairs")
    for name in ("shg", "slides", "images"):
        (top / name).mkdir()
    for pair in pairs:
        shutil.copy(pair.paths[0], top / "shg")
        shutil.copy(pair.paths[1], top / "slides")
        shutil.copy(pair.paths[1], top / "images")
    large = cmrir.sample_pair(9, (620, 720))
    for name, pixels in {
        "query_SHG": large.shg,
        "laser": large.shg,
        "slide_SHG": large.shg,
        "core_SHG": large.shg[100:500, 100:500],
        "slide_BF": large.bf,
    }.items():
        shown = pixels if pixels.shape[2] == 3 else pixels[..., 0]
        colours = "rgb" if pixels.shape[2] == 3 else "minisblack"
        tifffile.imwrite(top / f"{name}.tif", shown, photometric=colours)
    shutil.copy(top / "slide_BF.tif", top / "slides" / "large_BF.tif")
    corners = [(20, 20), (20, 380), (380, 20), (380, 380)]
    rows = [f"{y},{x},{y + 100},{x + 100}" for y, x in corners]
    (top / "points.csv").write_text("\n".join(["first_y,first_x,second_y,second_x", *rows]) + "\n")
    with tifffile.TiffWriter(top / "slide.svs") as file:
        options = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib"}
        file.write(np.zeros((4200, 6200, 3), np.uint8), subifds=1, **options)
        file.write(np.zeros((2100, 3100, 3), np.uint8), subfiletype=1, **options)
    restore(top)
    model = cmrir.load_model("sample")
    cmrir.run(cmrir.build_repository([top / "slides"], model, "BF", top / "tissue.cmrir")).close()
    shutil.copytree(top / "tissue.cmrir", top / "slides.cmrir")
    return top


def restore(folder: Path) -> None:
    """Put back the model, in place of one that was trained for one step."""
    shutil.copy(cmrir.sample_model(), folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_of_the_documentation_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    ran = 0
    lines = [re.sub(" -o eval$", "", line) for page in PAGES for line in commands(page)]
    for line in dict.fromkeys(lines):
        if not line.startswith("napari-cmrir ") or OTHER_DATA.search(line) or OWN_TESTS.search(line):
            continue
        quick = f" {QUICK}" if line.split()[1] == "train" else ""
        if " index slides/" in line:
            shutil.rmtree("slides.cmrir")  # of another model
        answer = CliRunner().invoke(app, shlex.split(line + quick)[1:], catch_exceptions=False)
        assert answer.exit_code == 0, f"{line}\n{answer.output}"
        restore(folder)
        ran += 1
    assert ran > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_every_python_block_of_the_documentation_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    quick = TrainingSettings(steps=1, widths=(8, 8), batch_size=4, patch_size=64, validation_share=0)
    monkeypatch.setattr(cmrir, "train", partial(cmrir.train, settings=quick))
    names: dict = {}
    for body in blocks(page, "python"):
        if "find_aligned_pairs" in body:  # trains 800 steps a round; examples/no_pairs.py finds pairs
            continue
        if page.name != "extending.md" or "..." in body:  # the others are files of tests/extension_package
            if "build_repository" in body:
                shutil.rmtree("slides.cmrir", ignore_errors=True)  # of another model
            if "register(" in body:  # what it registers would stay in this process, for other tests
                subprocess.run([sys.executable, "-c", body], check=True, timeout=60)
            else:
                exec(compile(body, str(page), "exec"), names)
    restore(folder)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs_and_finds_what_it_should(path, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "agg"}
    answer = subprocess.run(
        [sys.executable, path], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert answer.returncode == 0, answer.stderr
    for line in OUTPUTS[path.stem]:
        assert line in answer.stdout


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {re.sub(r"\s+", "-", head.strip()) for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_picture_of_a_page_is_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for alternative, target in re.findall(r"(!?\[[^\]]*\])\(([^)\s]+)\)", text):
        if alternative.startswith("!"):
            assert len(alternative) > 12, f"{target} has no alternative text"
        own = re.sub(
            r"^https://(?:github|raw\.githubusercontent)\.com/napari-cmrir/napari-cmrir/(?:blob/)?main/",
            "",
            target,
        )
        if own != target:
            assert (ROOT / own).exists(), target
        elif not target.startswith(("http", "mailto")):
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if path.is_relative_to(DOCS) and path.relative_to(DOCS).as_posix() in GENERATED:
                continue
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target


def test_every_picture_is_shown():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = {path.name for path in (DOCS / "images").iterdir() if path.suffix in (".png", ".webp")}
    assert not [name for name in pictures if name not in text]


def test_the_navigation_has_every_page():
    listed = re.findall(
        r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    )
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES[1:]}
    assert sorted(listed) == sorted(pages | GENERATED)


def test_the_reference_has_every_public_name_and_every_setting():
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    listed = {name for names in hooks.API.values() for name in names} | set(hooks.REGISTRIES)
    assert listed == set(cmrir.__all__)
    settings = hooks.settings_page()
    assert "| `max_rotation` | float | `30.0` |" in settings
    verbs = re.findall(r"^## napari-cmrir ([\w -]+)$", hooks.cli_page(), re.MULTILINE)
    assert {"train", "query", "datasets fetch", "import-checkpoint"} <= set(verbs)
    for path in EXAMPLES:
        assert f"# {path.stem}" not in hooks.tutorial_page(path)
        assert '"nbformat": 4' in hooks.notebook(path)


def test_the_questions_are_many():
    questions = re.findall(r"^### .+$", (DOCS / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(questions) == len(set(questions)) >= 30
