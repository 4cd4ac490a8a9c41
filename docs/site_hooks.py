"""Hooks of the documentation site: they make the pages that no file in docs holds.

- tutorials: each ``examples/*.py`` (percent format) as a page and as a notebook;
- reference: the public API by mkdocstrings, the commands from their objects, the settings from their models;
- the changelog from CHANGELOG.md.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "https://github.com/napari-cmrir/napari-cmrir/blob/main"
sys.path.insert(0, str(ROOT / "src"))


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and notebooks."""
    pages: dict[str, str | bytes] = {
        "changelog.md": re.sub(
            r"docs/([\w-]+\.md)", r"[\1](\1)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        ),
        "reference/api.md": api_page(),
        "reference/cli.md": cli_page(),
        "reference/settings.md": settings_page(),
    }
    icon = ROOT / "src" / "napari_cmrir" / "data" / "icon.svg"
    pages["images/icon.svg"] = icon.read_bytes()
    for path in sorted((ROOT / "examples").glob("*.py")):
        pages[f"tutorials/{path.stem}.md"] = tutorial_page(path)
        pages[f"tutorials/{path.stem}.ipynb"] = notebook(path)
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files outside docs to the repository."""
    return re.sub(r"\]\(\.\./((?!images/)[\w./-]+)\)", rf"]({SOURCE}/\1)", markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Name the theme's search dialog for screen readers."""
    return output.replace(
        'data-md-component="search" role="dialog"',
        'data-md-component="search" role="dialog" aria-label="Search"',
    )


def cells(path: Path) -> list[tuple[bool, str]]:
    """Split a file in percent format.

    Returns
    -------
    list of (bool, str)
        Whether the cell is text, and its content: Markdown or code.
    """
    found = []
    for cell in re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head, _, body = cell.partition("\n")
        is_text = "[markdown]" in head
        if is_text:
            body = "\n".join(re.sub(r"^# ?", "", line) for line in body.splitlines())
        found.append((is_text, body.strip("\n")))
    return found


def tutorial_page(path: Path) -> str:
    """Write an example as a page, with its picture if it draws one, and links to file and notebook."""
    parts = [body if is_text else f"```python\n{body}\n```" for is_text, body in cells(path)]
    links = f"[Notebook]({path.stem}.ipynb){{ download }} - [file]({SOURCE}/examples/{path.name})"
    parts.insert(1, links)
    picture = ROOT / "docs" / "images" / f"{path.stem}.png"
    if picture.is_file():
        alternative = next(iter(re.findall(r"^PICTURE = \"(.+)\"", path.read_text(encoding="utf-8"), re.M)))
        parts.append(f"![{alternative}](../images/{picture.name})")
    return "\n\n".join(parts) + "\n"


def notebook(path: Path) -> str:
    """Write an example as a Jupyter notebook."""
    import nbformat
    from nbformat import v4

    book = v4.new_notebook()
    for number, (is_text, body) in enumerate(cells(path)):
        cell = v4.new_markdown_cell(body) if is_text else v4.new_code_cell(body)
        cell["id"] = f"cell-{number}"  # by default random: each build would differ
        book.cells.append(cell)
    nbformat.validate(book)
    text: str = nbformat.writes(book)
    return text


API = {
    "Jobs": ("run", "Progress", "InputError"),
    "Images": ("find_images", "find_pairs", "open_image", "read_image", "Region", "sample_pair"),
    "Models": ("train", "load_model", "represent", "sample_model", "adapt_model"),
    "Pairs": ("find_aligned_pairs", "pair_from_landmarks"),
    "Repositories": (
        "build_repository",
        "open_repository",
        "build_index",
        "prune_repository",
        "compact_repository",
        "verify_repository",
        "Source",
    ),
    "Searching": ("query", "query_many", "SearchSettings", "write_hits", "evaluate"),
}
"""Public names by subject; a test compares them with ``napari_cmrir.__all__``."""

REGISTRIES = [name for name in import_module("napari_cmrir").__all__ if name.isupper()]

RESULTS = (
    "napari_cmrir.search.hits.SearchResult",
    "napari_cmrir.search.hits.Hit",
    "napari_cmrir.search.explain.explain",
    "napari_cmrir.repository.repository.Repository",
    "napari_cmrir.representations.base.Representation",
    "napari_cmrir.evaluation.protocol.EvaluationReport",
    "napari_cmrir.pairing.landmarks.fit_landmarks",
)


def api_page() -> str:
    """List the public names by subject, each with its docstring."""
    homes = import_module("napari_cmrir")._HOMES
    lines = [
        "# Python",
        "",
        "All names of this page but the last section's are in `napari_cmrir`, which is imported as `cmrir`:"
        " `import napari_cmrir as cmrir`. What yields progress is a job: pass it to `run`",
        "or loop over it.",
        "",
    ]
    for subject, names in API.items():
        lines += [f"## {subject}", ""]
        for name in names:
            module, _, attribute = homes[name].partition(":")
            lines += [_directive(f"napari_cmrir.{module}.{attribute}", name), ""]
    lines += ["## Registries", "", "Implementations by name; see [Extending](../extending.md).", ""]
    package = import_module("napari_cmrir")
    for name in REGISTRIES:
        registry = getattr(package, name)
        built_in = ", ".join(f"`{one}`" for one in sorted(registry._built_in))
        lines += [f"- `{name}`: {registry.kind}, entry points `{registry.group}`; built in: {built_in}"]
    lines += ["", "## What the functions return", ""]
    for path in RESULTS:
        lines += [_directive(path, path.rpartition(".")[2]), ""]
    return "\n".join(lines)


def _directive(path: str, name: str) -> str:
    return f"::: {path}\n    options:\n      heading: {name}\n      toc_label: {name}"


def cli_page() -> str:
    """List every command with its arguments and options."""
    import typer
    import typer.main

    from napari_cmrir.cli.main import app

    command = typer.main.get_command(app)
    lines = ["# Command line", "", command.help or "", ""]
    lines += [
        "The exit status is 0 if all was done, 2 after bad use or bad input (one sentence on the error"
        " output), 1 after a fault of the program, and 130 after an interruption.",
        "",
    ]
    for name, verb in walk(command, "napari-cmrir"):
        context = typer.Context(verb, info_name=name)
        lines += [f"## {name}", "", inspect.cleandoc(verb.help or ""), ""]
        lines += [f"    {name} {' '.join(verb.collect_usage_pieces(context))}", ""]
        arguments, options = [], []
        for one in verb.params:
            record = one.get_help_record(context)
            if record is not None and "--help" not in one.opts:
                (arguments if one.param_type_name == "argument" else options).append(record)
        lines += _table(arguments, "argument") + _table(options, "option")
    return "\n".join(lines)


def walk(command: Any, name: str) -> list[tuple[str, Any]]:
    """Return every command below one that does something, by its full name."""
    found = []
    for verb, one in sorted(command.commands.items()):
        full = f"{name} {verb}"
        found += walk(one, full) if hasattr(one, "commands") else [(full, one)]
    return found


def _table(rows: list[tuple[str, str]], head: str) -> list[str]:
    if not rows:
        return []
    lines = [f"| {head} | meaning |", "| --- | --- |"]
    for flags, meaning in rows:
        lines.append(f"| `{' '.join(flags.split()).replace('|', BAR)}` | {escape(meaning)} |")
    return [*lines, ""]


BAR = "\\|"  # in a cell of a table


SETTINGS = {
    "Reading images": "settings:ReadingSettings",
    "Training CoMIR models": "representations.training_settings:TrainingSettings",
    "Training pix2pix": "representations.training_settings:Pix2PixSettings",
    "Training CycleGAN": "representations.training_settings:CycleGanSettings",
    "Repositories": "repository.settings:RepositorySettings",
    "Descriptors": "bag_of_words.settings:DescriptorSettings",
    "Vocabularies": "bag_of_words.settings:VocabularySettings",
    "Bags of words": "bag_of_words.settings:BagSettings",
    "Registration": "settings:RegistrationSettings",
    "Searching": "search.settings:SearchSettings",
    "Finding pairs": "search.settings:PairingSettings",
    "Evaluation": "evaluation.records:EvaluationSettings",
    "Studies": "evaluation.records:StudySettings",
}


def settings_page() -> str:
    """List every settings model with its fields."""
    lines = [
        "# Settings",
        "",
        "Settings are frozen pydantic models. The options of the [command line](cli.md) and the forms of the"
        " docks are made from the same fields.",
        "",
    ]
    for subject, home in SETTINGS.items():
        module, _, name = home.partition(":")
        model = getattr(import_module(f"napari_cmrir.{module}"), name)
        first = inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        lines += [f"## {subject}", "", f"`napari_cmrir.{module}.{name}`: {first}", ""]
        lines += ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
        for field, info in model.model_fields.items():
            default = "required" if info.is_required() else f"`{_default(info)}`"
            bounds = ", ".join(map(str, (one for one in info.metadata if _is_bound(one))))
            meaning = escape(info.description or "") + (f" ({escape(bounds)})" if bounds else "")
            lines.append(f"| `{field}` | {escape(_kind(info.annotation))} | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _default(info: Any) -> str:
    value = info.get_default(call_default_factory=True)
    return f"{type(value).__name__}()" if hasattr(value, "model_dump") else str(value).replace("|", BAR)


def _is_bound(one: Any) -> bool:
    return type(one).__name__ in ("Ge", "Gt", "Le", "Lt", "MinLen", "MaxLen")


def _kind(annotation: Any) -> str:
    if annotation is type(None):
        return "None"
    if get_origin(annotation) is None:
        return str(getattr(annotation, "__name__", annotation))
    inner = [_kind(one) if not isinstance(one, (str, int)) else repr(one) for one in get_args(annotation)]
    origin = getattr(get_origin(annotation), "__name__", str(get_origin(annotation)))
    return (
        " or ".join(inner)
        if origin in ("Union", "UnionType", "Literal")
        else f"{origin} of {', '.join(inner)}"
    )


def escape(text: str) -> str:
    """Write a text into a cell of a table."""
    text = " ".join(text.split()).replace("|", BAR).replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?<![\w`])\*|\*(?![\w`])", r"\\*", text)
