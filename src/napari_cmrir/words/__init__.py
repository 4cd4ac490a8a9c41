"""Stage II: from CoMIRs to descriptors, visual words and bags of words."""
