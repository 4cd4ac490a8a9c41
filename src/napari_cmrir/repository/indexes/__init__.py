"""Field indexes: data computed for every field from its stored CoMIR."""
