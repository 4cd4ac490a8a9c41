"""The descriptors, one module each, and what they share."""
