"""Cross-modality sub-image retrieval with contrastive multimodal image representations (CoMIR).

Breznik, Wetzer, Lindblad & Sladoje, "Cross-modality sub-image retrieval using contrastive multimodal
image representations", Scientific Reports 14, 18798 (2024), doi:10.1038/s41598-024-68800-1.
"""

__version__ = "0.1.0"
