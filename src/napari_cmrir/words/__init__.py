"""Stage II: descriptors of a CoMIR, the vocabulary they are named by, and bags of words that are ranked."""
