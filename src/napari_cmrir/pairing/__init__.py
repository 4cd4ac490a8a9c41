"""Aligned pairs: found between two folders of images that are not aligned, or made from landmarks."""
