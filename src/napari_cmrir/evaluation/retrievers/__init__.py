"""Retrievers: complete systems that rank images for a query: this package's search and competitors."""
