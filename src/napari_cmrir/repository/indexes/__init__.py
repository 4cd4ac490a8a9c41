"""Indexes of fields, one module each: what is computed of every field from its stored CoMIR."""
