"""A query: shortlist, re-ranking, registration, hits."""
