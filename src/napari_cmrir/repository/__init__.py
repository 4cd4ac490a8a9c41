"""The searchable repository on disk: building it, adding to it, opening it."""
