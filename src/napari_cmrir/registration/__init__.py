"""Registration of a query with images: arrays in, poses and scores out. Knows no files."""
