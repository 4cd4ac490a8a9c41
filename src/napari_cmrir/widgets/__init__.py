"""The napari dock widgets."""
