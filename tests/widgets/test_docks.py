"""What holds for all three docks."""

from napari_cmrir.widgets.find import FindWidget
from napari_cmrir.widgets.index import IndexWidget
from napari_cmrir.widgets.model import ModelWidget


def test_every_field_says_what_it_is_for(dock):
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit

    for widget_class in (ModelWidget, IndexWidget, FindWidget):
        widget = dock(widget_class)
        for kind in (QAbstractButton, QComboBox, QLineEdit, QAbstractSpinBox):
            for child in widget.findChildren(kind):
                if (
                    child.objectName() != "qt_spinbox_lineedit"
                    and type(child.parent()).__name__ != "QTableWidget"
                ):
                    assert child.toolTip() or child.objectName().startswith("qt_"), (widget_class, child)
