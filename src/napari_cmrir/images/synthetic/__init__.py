"""Generated tissue under two microscopes, for demonstrations and tests."""
