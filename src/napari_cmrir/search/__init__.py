"""Search: checks, shortlist, re-ranking, registration, hits, confidence and exports."""
