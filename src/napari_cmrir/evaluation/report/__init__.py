"""The report of an evaluation: tables, plots, the HTML page, and comparison with another run."""
