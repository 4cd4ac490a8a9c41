"""Image-to-image translation: pix2pix and CycleGAN, the paper's alternatives to CoMIRs."""
