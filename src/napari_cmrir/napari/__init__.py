"""The napari plugin: docks, layers, reader, writer and sample data. It calls the API, without algorithms."""
