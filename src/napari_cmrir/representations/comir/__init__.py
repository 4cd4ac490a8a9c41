"""CoMIR: two networks trained together by a contrastive loss."""
