"""Options generated from the settings models, lists of values, and notes on how images are read."""

from __future__ import annotations

import functools
import inspect
import logging
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from typer.core import TyperCommand

from napari_cmrir.errors import ImageWarning, InputError
from napari_cmrir.settings import ReadingSettings, Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = [
    "READING",
    "Device",
    "Lists",
    "Pattern",
    "Preset",
    "SettingsOptions",
    "saying_what_is_read",
    "settings_options",
    "spread",
]


class Lists(TyperCommand):
    """A command with options that take all values up to the next option.

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


class Device(StrEnum):
    """Devices to compute on."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Preset(StrEnum):
    """Presets of settings."""

    fast = "fast"
    paper = "paper"


Pattern = Annotated[
    str,
    typer.Option(
        help="How the files of pairs are named, without suffix; * stands for anything, as in"
        " <MODALITY>-<identifier>*."
    ),
]


@dataclass(frozen=True)
class SettingsOptions:
    """Fields of one settings model that a command offers as options.

    Parameters
    ----------
    model : type of Settings
        The settings model.
    panel : str
        Heading of the options in the help.
    fields : tuple of str
        Names of the fields; by default all. A field that is itself a settings model has no option.
    flags : mapping
        Option names of fields whose option is not the field's name with dashes.
    others : tuple of type of Settings
        Models that may take the place of ``model``: their fields are offered, too. A name that several
        models have is one option.
    other_panel : str
        Heading of the options that only the others have.
    """

    model: type[Settings]
    panel: str
    fields: tuple[str, ...] = ()
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: tuple[type[Settings], ...] = ()
    other_panel: str = ""

    def parameters(self, group: str) -> dict[str, inspect.Parameter]:
        """Make one keyword-only parameter per field, named ``<group>_<field>`` and annotated for typer."""
        return {
            name: inspect.Parameter(
                f"{group}_{name}",
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=self._annotation(name, self._holders(name)),
            )
            for name in self.fields or dict.fromkeys(name for m in self._models() for name in m.model_fields)
            if not _is_settings(self._holders(name)[0].annotation)
        }

    def _models(self) -> tuple[type[Settings], ...]:
        return (self.model, *self.others)

    def _holders(self, name: str) -> list[FieldInfo]:
        """The fields of this name, of every model that has one."""
        return [model.model_fields[name] for model in self._models() if name in model.model_fields]

    def flag(self, name: str) -> str:
        """Return the option of a field as a user types it, such as ``--max-rotation``."""
        return self._declared(name)[0].split("/")[0]

    def settings(self, given: Mapping[str, Any], base: Settings | None = None) -> Any:
        """Make the settings from the given options and, for all others, a base.

        Parameters
        ----------
        given : mapping
            Values by field name, as `settings_options` passes them.
        base : Settings, optional
            A preset of `model` or of one of the `others`; by default the model's defaults.

        Returns
        -------
        Settings
            Of the base's type.

        Raises
        ------
        InputError
            If a value is out of bounds; the sentence names the option.

        Examples
        --------
        >>> READING.settings({"pixel_size": -1.0})
        Traceback (most recent call last):
            ...
        napari_cmrir.errors.InputError: --pixel-size cannot be -1.0: Input should be greater than 0.
        """
        start = {} if base is None else {name: getattr(base, name) for name in type(base).model_fields}
        model = type(base) if isinstance(base, self.others) else self.model
        try:
            return model.model_validate(start | dict(given))
        except ValidationError as error:
            wrong = error.errors()[0]
            if not wrong["loc"]:
                raise InputError(f"The settings contradict each other: {wrong['msg']}.") from None
            option = self.flag(str(wrong["loc"][0]))
            raise InputError(f"{option} cannot be {wrong['input']!r}: {wrong['msg']}.") from None

    def _declared(self, name: str) -> tuple[str, ...]:
        own = self.flags.get(name)
        if own is not None:
            return own
        dashed = name.replace("_", "-")
        is_switch = self._holders(name)[0].annotation is bool
        return (f"--{dashed}/--no-{dashed}",) if is_switch else (f"--{dashed}",)

    def _annotation(self, name: str, infos: Sequence[FieldInfo]) -> Any:
        info, is_shared = infos[0], len(infos) > 1
        kind, choices = _option_type(name, info.annotation)
        bounds = _common_bounds(infos) if kind in (int, float) else {}
        repeat = " Repeat the option for each value." if get_origin(kind) is list else ""
        option = typer.Option(
            *self._declared(name),
            help=f"{info.description}{repeat}",
            rich_help_panel=self.panel if name in self.model.model_fields else self.other_panel,
            show_default="as the preset" if is_shared else _as_text(info.default) or False,
            metavar="|".join(map(str, choices)) if choices and kind in (int, str) else None,
            **bounds,
        )
        return Annotated[kind | None, option]


def settings_options(**groups: SettingsOptions) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command so that typer offers the fields of settings models as options.

    Parameters
    ----------
    **groups
        Name of a parameter of the verb, and the options that it stands for. The verb receives a mapping
        with the values that were given, by field name.

    Returns
    -------
    callable
        The decorator.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        offered = {group: options.parameters(group) for group, options in groups.items()}

        @functools.wraps(verb)
        def call(**values: Any) -> None:
            for group, parameters in offered.items():
                taken = {name: values.pop(parameter.name, None) for name, parameter in parameters.items()}
                values[group] = {
                    name: _as_value(value) for name, value in taken.items() if value not in (None, [])
                }
            verb(**values)

        own = inspect.signature(verb, eval_str=True).parameters.values()
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in groups]
        generated = [parameter for group in offered.values() for parameter in group.values()]
        parameters = [*kept, *generated]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        del call.__wrapped__  # typer would read the command's own signature
        return call

    return decorate


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _option_type(name: str, annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type that typer parses, and the choices where there is a fixed list of them."""
    if get_origin(annotation) is Annotated:
        return _option_type(name, get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if len(parts) == 2 and get_origin(parts[0]) is Literal and parts[1] is str:
            return str, (*get_args(parts[0]), "NAME")  # the built-in names, or one that a package adds
        return _option_type(name, parts[0]) if len(parts) == 1 else (str, ())
    if get_origin(annotation) is tuple:
        return types.GenericAlias(list, (_option_type(name, get_args(annotation)[0])[0],)), ()
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        if all(isinstance(choice, str) for choice in choices):
            title = "".join(word.capitalize() for word in name.split("_"))
            return StrEnum(title, {choice: choice for choice in choices}), choices
        return type(choices[0]), choices
    return annotation, ()


def _common_bounds(infos: Sequence[FieldInfo]) -> dict[str, Any]:
    """Give the bounds that hold for every one of the fields; each model checks its own besides."""
    each = [_bounds(info) for info in infos]
    shared = set.intersection(*(set(bounds) for bounds in each))
    return {name: (min if name == "min" else max)(bounds[name] for bounds in each) for name in sorted(shared)}


def _bounds(info: FieldInfo) -> dict[str, Any]:
    """Return the closed bounds for typer; pydantic checks the open ones."""
    bounds = {}
    for rule in info.metadata:
        for option, attribute in (("min", "ge"), ("max", "le")):
            if getattr(rule, attribute, None) is not None:
                bounds[option] = getattr(rule, attribute)
    return bounds


def _as_text(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "" if default is None else f"{default}"


def _as_value(value: Any) -> Any:
    """Convert a parsed option to the type of the settings model: lists to tuples, whole numbers to int."""
    if isinstance(value, list | tuple):
        return tuple(map(_as_value, value))
    if isinstance(value, StrEnum):
        return value.value
    return int(value) if isinstance(value, str) and value.isdigit() else value


READING = SettingsOptions(
    ReadingSettings,
    "Choice of the image in files that hold several",
    flags={"channels": ("--channel",)},
)
"""The options of every command that reads images."""


@contextmanager
def saying_what_is_read() -> Iterator[None]:
    """Print each note on how an image is read, or on its assumed pixel size, once on stderr."""
    logger = logging.getLogger("napari_cmrir")
    handler, level = _Saying(), logger.level
    doubts: dict[str, list[str]] = {}
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("default", module="napari_cmrir")
            warnings.filterwarnings("always", category=ImageWarning)
            show = warnings.showwarning

            def plainly(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
                if isinstance(message, ImageWarning):
                    doubts.setdefault(message.doubt, []).append(message.image)
                elif category is UserWarning and "napari_cmrir" in Path(filename).parts:
                    typer.echo(f"Note: {message}", err=True)
                else:
                    show(message, category, filename, *rest, **more)

            warnings.showwarning = plainly
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        for doubt, images in doubts.items():
            more = f" and {len(images) - 3} more images" if len(images) > 3 else ""
            typer.echo(f"Note: {', '.join(images[:3])}{more}: {doubt}.", err=True)


class _Saying(logging.Handler):
    """Prints a record unless the same text was printed for another image."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said: set[Any] = set()

    def emit(self, record: logging.LogRecord) -> None:
        what = record.args if not record.args else tuple(record.args)[-1]
        if what not in self._said:
            self._said.add(what)
            typer.echo(record.getMessage(), err=True)
