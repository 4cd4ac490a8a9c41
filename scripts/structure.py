"""Print the structure of the source tree, and fail if it breaks a rule.

    python scripts/structure.py [SRC]

It prints the number of modules, their median length, the longest one, and the import circles. The exit status
is 1 if there is an import circle or a module of more than 500 lines. Imports inside functions count. Imports
under ``if TYPE_CHECKING`` do not, because they never run.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_LINES = 500
"""Longest module allowed: what one reader takes in at a sitting (docs/architecture.md)."""

STUB_LINES = 5
"""A file up to this long is not counted as a module: it is the ``__init__`` that only names its package."""


@dataclass(frozen=True)
class Module:
    """A file of the source tree.

    Parameters
    ----------
    path : Path
    lines : int
    imports : dict
        Name of each module of the tree that it imports, with the line of the first import.
    """

    path: Path
    lines: int
    imports: dict[str, int]


def read_modules(source: Path) -> dict[str, Module]:
    """Read every module below a folder.

    Parameters
    ----------
    source : Path
        The folder that holds the packages.

    Returns
    -------
    dict
        By dotted name; a package has the name of its folder.
    """
    paths = {module_name(path.relative_to(source)): path for path in sorted(source.rglob("*.py"))}
    modules = {}
    for name, path in paths.items():
        text = path.read_text(encoding="utf-8")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        imports: dict[str, int] = {}
        for target, line in imported(ast.parse(text), package, paths.keys()):
            if target != name:
                imports.setdefault(target, line)
        modules[name] = Module(path, len(text.splitlines()), imports)
    return modules


def module_name(path: Path) -> str:
    """Return the dotted name of a file.

    Examples
    --------
    >>> module_name(Path("package/room/module.py")), module_name(Path("package/__init__.py"))
    ('package.room.module', 'package')
    """
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, package: str, known: Container[str]) -> Iterator[tuple[str, int]]:
    """Yield each known module that some code imports when it runs, with the line of the import."""
    for node in running_nodes(tree):
        if isinstance(node, ast.Import):
            candidates = [[alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module, node.level, package)
            candidates = [
                [f"{base}.{alias.name}", base] for alias in node.names
            ]  # a submodule, or a name in it
        else:
            continue
        for names in candidates:
            target = next((name for name in names if name in known), None)
            if target is not None:
                yield target, node.lineno


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below one, without the branches that only a type checker follows."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield other
                yield from running_nodes(other)
        else:
            yield child
            yield from running_nodes(child)


def is_type_checking(test: ast.expr) -> bool:
    """Return whether a condition is ``TYPE_CHECKING`` or ``typing.TYPE_CHECKING``."""
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def absolute(module: str | None, level: int, package: str) -> str:
    """Return the absolute name of what an import names.

    Examples
    --------
    >>> absolute("sibling", 1, "package.room"), absolute(None, 2, "package.room")
    ('package.room.sibling', 'package')
    """
    if not level:
        return module or ""
    parts = package.split(".")
    above = parts[: len(parts) - level + 1]
    return ".".join([*above, module] if module else above)


def find_circles(modules: dict[str, Module]) -> list[list[str]]:
    """Find the import circles: groups of modules that each import every other, directly or through others.

    Returns
    -------
    list of list of str
        Sorted; a module is in one group at most.
    """
    reached = {name: reachable(name, modules) for name in modules}
    circles = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in modules
        if name in reached[name]
    }
    return [list(circle) for circle in sorted(circles)]


def reachable(name: str, modules: dict[str, Module]) -> set[str]:
    """Return all modules that one imports, directly or through others."""
    found: set[str] = set()
    waiting = list(modules[name].imports)
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting.extend(modules[other].imports)
    return found


def main() -> None:
    """Print the structure; exit with 1 if it breaks a rule."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parents[1] / "src"
    parser.add_argument("source", nargs="?", type=Path, default=default, help="default: the src beside this")
    source = parser.parse_args().source
    modules = read_modules(source)
    counted = {name: module for name, module in modules.items() if module.lines > STUB_LINES}
    if not counted:
        parser.error(f"There is no module below {source}.")
    longest = max(counted, key=lambda name: counted[name].lines)
    circles = find_circles(modules)
    print(
        f"{len(counted)} modules, median {statistics.median(m.lines for m in counted.values()):.0f} lines,"
        f" longest {counted[longest].lines} ({longest}),"
        f" {len(circles)} import circles of {sum(map(len, circles))} modules"
    )
    too_long = [name for name, module in counted.items() if module.lines > MOST_LINES]
    for name in too_long:
        print(f"{name} has {counted[name].lines} lines, more than {MOST_LINES}.")
    for circle in circles:
        print(f"Import circle of {len(circle)} modules:")
        for name in circle:
            for target, line in modules[name].imports.items():
                if target in circle:
                    print(f"  {name}:{line} imports {target}")
    sys.exit(1 if too_long or circles else 0)


if __name__ == "__main__":
    main()
