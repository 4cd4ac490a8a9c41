"""Stage I: representations that turn images of two modalities into one common kind of image."""
