"""Stage II: dense descriptors of CoMIRs, the vocabulary of visual words, and ranking by bags of words."""
