"""The figures of the paper, to stand beside ours.

Breznik et al. 2024, doi:10.1038/s41598-024-68800-1, Tables 1 to 3: percentage of the queries whose image is
among the first ten (Table 2: first K), 134 pairs of 834 x 834 px, patches of 256 x 256 px. An x stands for a
digit that was lost or plainly misread in the text that they are taken from.
"""

from __future__ import annotations

__all__ = ["COLUMNS", "COMPETITORS", "MODALITIES", "REPLACEMENT", "RERANKING", "SUCCESS_RANKS"]

MODALITIES = ("BF", "SHG")
COLUMNS = ("BF", "BF(T)", "SHG", "SHG(T)")
SUCCESS_RANKS = (1, 5, 10, 15)

Row = tuple[str, ...]

REPLACEMENT: dict[str, dict[tuple[str, str], dict[str, Row]]] = {
    "full": {
        ("sift", "original"): {
            "BF": ("100.0", "100.0", "9.7", "11.2"),
            "SHG": ("9.2", "10", "100.0", "100.0"),
        },
        ("sift", "comir"): {
            "BF": ("100.0", "97", "37.1", "32.8"),
            "SHG": ("31.1", "30.3", "100.0", "100.0"),
        },
        ("surf", "original"): {
            "BF": ("100.0", "97.3", "15.2", "14.2"),
            "SHG": ("10.x", "10.7", "100.0", "97.5"),
        },
        ("surf", "comir"): {
            "BF": ("100.0", "93.8", "71.4", "61.2"),
            "SHG": ("76.1", "59.0", "100.0", "92.1"),
        },
        ("resnet", "original"): {
            "BF": ("100.0", "73.1", "48.5", "29.1"),
            "SHG": ("46.3", "23.1", "100.0", "70.1"),
        },
        ("resnet", "comir"): {
            "BF": ("100.0", "61.6", "50.8", "20.9"),
            "SHG": ("50.4", "22.7", "100.0", "53.7"),
        },
        ("2dkd", "original"): {
            "BF": ("40.3", "28.7", "5.3", "3.7"),
            "SHG": ("5.2", "6.0", "24.6", "31.3"),
        },
        ("2dkd", "comir"): {
            "BF": ("24.6", "13.4", "11.2", "6.0"),
            "SHG": ("6.7", "9.7", "18.7", "12.7"),
        },
    },
    "patch": {
        ("sift", "original"): {
            "BF": ("97.5", "97", "8.7", "8.x"),
            "SHG": ("10.4", "10", "86.3", "82.x"),
        },
        ("sift", "comir"): {
            "BF": ("100", "69.9", "17.2", "18.x"),
            "SHG": ("18.9", "18.7", "100", "79.x"),
        },
        ("surf", "original"): {
            "BF": ("95.5", "84.8", "13.9", "13.x"),
            "SHG": ("10.9", "10", "95.8", "88.x"),
        },
        ("surf", "comir"): {
            "BF": ("100", "76.6", "46.3", "44.8"),
            "SHG": ("52.2", "35.8", "100", "73.x"),
        },
        ("resnet", "original"): {
            "BF": ("9.0", "12.7", "11.1", "9.x"),
            "SHG": ("11.1", "8.2", "11.9", "10.x"),
        },
        ("resnet", "comir"): {
            "BF": ("10.5", "12.3", "4.1", "7.x"),
            "SHG": ("8.2", "10.1", "14.1", "13.x"),
        },
        ("2dkd", "original"): {
            "BF": ("26.1", "23.8", "11.2", "6.x"),
            "SHG": ("5.2", "6.0", "24.6", "31.x"),
        },
    },
}
"""Table 1: by size of the query, then (features, representation), then modality of the repository."""

RERANKING: dict[str, dict[str, dict[str, Row]]] = {
    "full": {
        "BF": {
            "none": ("26.9", "51.5", "59.0", "63.4"),
            "bow-15": ("32.8", "55.2", "62.0", "63.4"),
            "bow": ("34.3", "59.7", "75.4", "75.4"),
        },
        "SHG": {
            "none": ("21.6", "45.5", "61.2", "69.4"),
            "bow-15": ("42.5", "57.5", "66.4", "69.4"),
            "bow": ("45.5", "64.9", "83.6", "83.6"),
        },
    },
    "patch": {
        "BF": {
            "none": ("11.2", "25.4", "35.8", "42.5"),
            "bow-15": ("23.1", "37.3", "41.8", "42.5"),
            "bow": ("27.6", "47.0", "51.5", "55.9"),
        },
        "SHG": {
            "none": ("10.4", "32.8", "44.8", "53.7"),
            "bow-15": ("29.1", "46.3", "53.7", "53.7"),
            "bow": ("29.1", "53.7", "63.4", "67.2"),
        },
    },
}
"""Table 2: by size, modality of the transformed query, re-ranking (bow of the first 30, bow-15 of 15)."""

COMPETITORS: dict[str, dict[str, dict[str, Row]]] = {
    "full": {
        "paper": {"BF": ("-", "-", "89.6", "83.6"), "SHG": ("86.6", "75.4", "-", "-")},
        "TC-Net": {"BF": ("-", "-", "47.8", "43.4"), "SHG": ("35.8", "37.3", "-", "-")},
        "IMTDF": {"BF": ("-", "-", "9.7", "11.9"), "SHG": ("12.7", "11.2", "-", "-")},
    },
    "patch": {
        "paper": {"BF": ("-", "-", "66.4", "63.4"), "SHG": ("56.7", "51.5", "-", "-")},
        "TC-Net": {"BF": ("-", "-", "22.4", "20.1"), "SHG": ("12.7", "16.4", "-", "-")},
        "IMTDF": {"BF": ("-", "-", "7.5", "7.5"), "SHG": ("7.5", "8.2", "-", "-")},
    },
}
"""Table 3: by size, method, modality of the repository; the paper's own is SURF on CoMIRs, re-ranking 30."""
