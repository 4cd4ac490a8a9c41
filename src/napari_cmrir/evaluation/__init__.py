"""Evaluation: the paper's protocol, its replacement study, and reports."""
