"""Descriptors (`surf`, `sift`), and the steps that they share (`features`, `grid`, `haar`)."""
