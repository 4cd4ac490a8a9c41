"""Stage II: dense descriptors of CoMIRs, the visual vocabulary, and bags of words that are ranked."""
