"""Stage I: from images of two modalities to their common representation, the CoMIRs."""
