"""The searchable repository on disk."""
