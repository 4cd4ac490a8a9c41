"""File formats, one module each: what a file stores, as series of levels of lazy arrays."""
