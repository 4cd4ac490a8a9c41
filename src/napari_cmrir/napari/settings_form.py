"""A form that magicgui generates from the fields of a settings model."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from magicgui.widgets import Container, create_widget
from pydantic import ValidationError
from qtpy.QtWidgets import QDoubleSpinBox, QWidget

from napari_cmrir.errors import InputError
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["SettingsForm"]

Model = TypeVar("Model", bound=Settings)

_MOST = {int: 2**31 - 1, float: 1e6}
"""Upper end of a field without an upper bound: what a Qt spin box of whole numbers holds."""


class SettingsForm(Generic[Model]):
    """Input fields for some settings of a model, with its bounds, choices, units and descriptions.

    A setting that may be missing (None) is missing at the lowest value of its field.

    Parameters
    ----------
    model : type of Settings
        The settings model.
    names : sequence of str
        Settings to show, in order.
    labels : mapping of str to str
        Label of a field; by default the name of the setting in words.
    missing : mapping of str to str
        Text that a field shows where its setting is missing.
    parent : QWidget, optional
        The dock, which lays out the fields and deletes the form with itself.

    Examples
    --------
    >>> form = SettingsForm(SearchSettings, ["hits", "mirror"])  # doctest: +SKIP
    >>> form.value().hits  # doctest: +SKIP
    10
    """

    def __init__(
        self,
        model: type[Model],
        names: Sequence[str],
        labels: Mapping[str, str] | None = None,
        missing: Mapping[str, str] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        self._model, self._missing = model, missing or {}
        self.container: Container[Any] = Container(
            widgets=[self._make(name, (labels or {}).get(name)) for name in names], labels=False
        )
        if parent is not None:
            self.container.native.setParent(parent)
            self.container.native.hide()
        self.changed = self.container.changed
        """Signal of magicgui: a field was changed, by the user or by the program."""

    def field(self, name: str) -> QWidget:
        """Return the Qt widget of a setting, to lay it out."""
        native: QWidget = self.container[name].native
        return native

    def value(self, base: Model | None = None) -> Model:
        """Return the settings that the form shows.

        Parameters
        ----------
        base : Settings, optional
            Gives the settings that the form does not show; by default the model's defaults.

        Raises
        ------
        InputError
            If the values do not go together.
        """
        values = {} if base is None else {name: getattr(base, name) for name in self._model.model_fields}
        for widget in self.container:
            is_missing = widget.name in self._missing and widget.value == widget.min
            values[widget.name] = None if is_missing else widget.value
        try:
            return self._model.model_validate(values)
        except ValidationError as error:
            wrong = error.errors()[0]
            name = str(wrong["loc"][0]) if wrong["loc"] else "The settings"
            raise InputError(f"{name.replace('_', ' ')} cannot be used: {wrong['msg']}.") from None

    def show(self, settings: Model) -> None:
        """Show settings in the form.

        Parameters
        ----------
        settings : Settings
            An instance of the form's model.
        """
        for widget in self.container:
            value = getattr(settings, widget.name)
            widget.value = widget.min if value is None else value

    def _make(self, name: str, label: str | None) -> Any:
        info = self._model.model_fields[name]
        kind, choices = _kind(info.annotation)
        text = label or name.replace("_", " ").capitalize()
        options: dict[str, Any] = {"tooltip": info.description}
        if choices:
            options["choices"] = choices
        elif kind in (int, float):
            options |= _bounds(info, kind)
            if name in self._missing:
                options["min"] = 0
        value = options.get("min") if info.default is None else info.default
        widget = create_widget(value=value, annotation=kind, name=name, label=text, options=options)
        native: Any = widget.native
        native.setAccessibleName(text)
        shown: Mapping[str, Any] = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        unit = shown.get("unit")
        if isinstance(native, QDoubleSpinBox):
            native.setSpecialValueText(self._missing.get(name, ""))
            native.setDecimals(shown.get("decimals", native.decimals()))
            native.setSuffix(f" {unit}" if unit and unit != "°" else str(unit or ""))
        elif kind is bool:
            native.setText(text)
        return widget


def _kind(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type of a setting without None, and its choices where there is a fixed list of them."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _kind(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0]), get_args(annotation)
    return annotation, ()


def _bounds(info: FieldInfo, kind: type) -> dict[str, Any]:
    """Return the bounds of a spin box; it steps onto an open bound, which the model then refuses."""
    bounds: dict[str, Any] = {"min": -_MOST[kind], "max": _MOST[kind]}
    for rule in info.metadata:
        for end, names in (("min", ("ge", "gt")), ("max", ("le", "lt"))):
            for rule_name in names:
                if getattr(rule, rule_name, None) is not None:
                    bounds[end] = getattr(rule, rule_name)
    return bounds
