"""Retrievers: whole systems that rank images for a query, ours and its competitors."""
