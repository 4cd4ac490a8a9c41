"""The training of a CoMIR model."""
