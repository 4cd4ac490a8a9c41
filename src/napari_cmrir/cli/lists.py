"""Options that take several values, as in ``--k 1 5 10 15``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from typer.core import TyperCommand

__all__ = ["Lists", "spread"]


class Lists(TyperCommand):
    """A command some of whose options take all values up to the next option.

    Click repeats the name instead (``--k 1 --k 5``), which works as well.
    """

    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, *options: str) -> type[Lists]:
        """Make the class of a command with these options."""
        return type(cls.__name__, (cls,), {"options": options})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the name of an option before each of its values."""
        return super().parse_args(ctx, spread(args, self.options))


def spread(arguments: Sequence[str], options: Iterable[str]) -> list[str]:
    """Repeat the name of an option before each of its values.

    Values end at the next option, or at ``--``.

    Examples
    --------
    >>> spread(["model", "--k", "1", "5", "--seed", "3"], ["--k"])
    ['model', '--k', '1', '--k', '5', '--seed', '3']
    """
    wanted, spreaded = set(options), []
    current: str | None = None
    for position, argument in enumerate(arguments):
        before = arguments[position - 1] if position else ""
        is_value = not argument.startswith("-")
        if is_value and current is not None and before != current:
            spreaded.append(current)
        elif not is_value:
            current = argument if argument in wanted else None
        spreaded.append(argument)
    return spreaded
