"""Figures for comparison: the paper's, and those of another evaluation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.metrics import compare

__all__ = [
    "COLUMNS",
    "COMPETITORS",
    "MODALITIES",
    "REPLACEMENT",
    "RERANKING",
    "SUCCESS_RANKS",
    "compare_evaluations",
    "is_share",
    "published_figures",
    "read_evaluation",
]

MODALITIES = ("BF", "SHG")
COLUMNS = ("BF", "BF(T)", "SHG", "SHG(T)")
SUCCESS_RANKS = (1, 5, 10, 15)

Row = tuple[str, ...]

REPLACEMENT: dict[str, dict[tuple[str, ...], dict[str, Row]]] = {
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
        ("sift", "cyclegan", "BF"): {
            "BF": ("100.0", "100.0", "15.7", "16.4"),
            "SHG": ("26.1", "24.6", "100.0", "70.9"),
        },
        ("sift", "cyclegan", "SHG"): {
            "BF": ("100.0", "48.5", "15.7", "18.7"),
            "SHG": ("14.2", "13.4", "100.0", "100.0"),
        },
        ("sift", "pix2pix", "BF"): {
            "BF": ("100.0", "100.0", "14.2", "21.6"),
            "SHG": ("20.9", "22.4", "100.0", "20.2"),
        },
        ("sift", "pix2pix", "SHG"): {
            "BF": ("100.0", "26.1", "0.0", "18.7"),
            "SHG": ("14.2", "14.2", "100.0", "100.0"),
        },
        ("surf", "cyclegan", "BF"): {
            "BF": ("100.0", "98.9", "21.6", "17.2"),
            "SHG": ("35.8", "23.9", "100.0", "78.4"),
        },
        ("surf", "cyclegan", "SHG"): {
            "BF": ("100.0", "88.8", "14.2", "12.7"),
            "SHG": ("12.7", "12.7", "100.0", "98.1"),
        },
        ("surf", "pix2pix", "BF"): {
            "BF": ("100.0", "98.9", "20.9", "12.7"),
            "SHG": ("35.8", "31.3", "100.0", "67.9"),
        },
        ("surf", "pix2pix", "SHG"): {
            "BF": ("100.0", "85.1", "35.1", "31.3"),
            "SHG": ("26.1", "19.4", "100.0", "98.1"),
        },
        ("resnet152", "original"): {
            "BF": ("100.0", "73.1", "48.5", "29.1"),
            "SHG": ("46.3", "23.1", "100.0", "70.1"),
        },
        ("resnet152", "comir"): {
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
        ("sift", "cyclegan", "BF"): {
            "BF": ("98.9", "97.8", "11.2", "11.x"),
            "SHG": ("16.4", "17.9", "100", "35.x"),
        },
        ("sift", "cyclegan", "SHG"): {
            "BF": ("91.0", "24.x", "14.2", "15.7"),
            "SHG": ("14.2", "11.x", "87.7", "85.8"),
        },
        ("sift", "pix2pix", "BF"): {
            "BF": ("98.9", "97.8", "14.2", "21.x"),
            "SHG": ("18.7", "23.1", "98.5", "21.x"),
        },
        ("sift", "pix2pix", "SHG"): {
            "BF": ("98.5", "14.x", "15.7", "15.7"),
            "SHG": ("12.7", "9.x", "87.7", "85.8"),
        },
        ("surf", "cyclegan", "BF"): {
            "BF": ("96.3", "88.5", "17.9", "13.x"),
            "SHG": ("26.1", "21.6", "98.5", "60.x"),
        },
        ("surf", "cyclegan", "SHG"): {
            "BF": ("84.3", "-", "13.4", "13.4"),
            "SHG": ("11.9", "8.x", "96.7", "91.1"),
        },
        ("surf", "pix2pix", "BF"): {
            "BF": ("96.3", "88.5", "14.9", "11.x"),
            "SHG": ("25.3", "18.7", "97.0", "34.x"),
        },
        ("surf", "pix2pix", "SHG"): {
            "BF": ("100", "42.x", "34.3", "34.3"),
            "SHG": ("16.4", "19.x", "96.7", "91.1"),
        },
        ("resnet152", "original"): {
            "BF": ("9.0", "12.7", "11.1", "9.x"),
            "SHG": ("11.1", "8.2", "11.9", "10.x"),
        },
        ("resnet152", "comir"): {
            "BF": ("10.5", "12.3", "4.1", "7.x"),
            "SHG": ("8.2", "10.1", "14.1", "13.x"),
        },
        ("2dkd", "original"): {
            "BF": ("26.1", "23.8", "11.2", "6.x"),
            "SHG": ("5.2", "6.0", "24.6", "31.x"),
        },
    },
}
"""Table 1: by size of the query, then (features, representation), then modality of the repository.

A translation has two blocks: a third name says which modality images are compared in. Images of the other one
are fakes there: a repository "SHG" compared in BF holds fake BF.
"""

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


def is_share(figure: str, total: int = 134) -> bool:
    """Tell whether a percentage with one decimal can be a share of a number of queries.

    Examples
    --------
    >>> is_share("61.2"), is_share("71.4"), is_share("100.0")  # 82 of 134; between 95 and 96; all
    (True, False, True)
    """
    return figure in {f"{100 * count / total:.1f}" for count in range(total + 1)}


def published_figures() -> list[str]:
    """Give all figures of the paper's Tables 1 to 3 whose decimals are known."""
    rows = [row for table in REPLACEMENT.values() for block in table.values() for row in block.values()]
    for tables in (RERANKING, COMPETITORS):
        rows += [row for table in tables.values() for block in table.values() for row in block.values()]
    return [
        figure for row in rows for figure in row if figure.replace(".", "", 1).isdigit() and "." in figure
    ]


_CONDITION = ("query", "repository", "pose", "size")


def read_evaluation(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON of an evaluation.

    Parameters
    ----------
    path : path-like
        Its ``evaluation.json``, or the folder that holds it.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file is missing or is no evaluation.
    """
    path = Path(path)
    file = path / "evaluation.json" if path.is_dir() else path
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is not the evaluation.json of an evaluation; give one.") from error
    if not isinstance(content, dict) or not {"conditions", "queries", "modalities"} <= content.keys():
        raise InputError(f"{file} is not the evaluation.json of an evaluation; give one.")
    return content


def compare_evaluations(ours: dict[str, Any], other: dict[str, Any]) -> list[list[str]]:
    """Compare two evaluations of the same queries, condition by condition, by the exact McNemar test.

    Parameters
    ----------
    ours, other : dict
        See `read_evaluation`.

    Returns
    -------
    list of list of str
        A table with its heading; one row for each common condition and each K of the first evaluation.

    Raises
    ------
    InputError
        If they have no condition in common, or the queries of one differ.

    Examples
    --------
    >>> one = {"query": "BF", "repository": "SHG", "pose": "transformed", "size": "full"}
    >>> def evaluation(*ranks):
    ...     queries = [
    ...         {"condition": one, "field": str(i), "number": 0, "box": None, "rank": rank}
    ...         for i, rank in enumerate(ranks)
    ...     ]
    ...     return {"settings": {"ranks": [1]}, "queries": queries}
    >>> compare_evaluations(evaluation(1, 1, 2), evaluation(4, 1, None))[1]
    ['BF(T) in SHG, full', 'Acc@1', '66.7', '33.3', '1', '0', '1.0000']
    """
    rows = [["Query", "", "this", "other", "this only", "other only", "p (McNemar)"]]
    conditions = _by_condition(other)
    for condition, queries in _by_condition(ours).items():
        if condition not in conditions:
            continue
        if {name: box for name, (box, _) in queries.items()} != {
            name: box for name, (box, _) in conditions[condition].items()
        }:
            raise InputError(
                "The two evaluations have different queries; give both the same pairs, sizes, rotation,"
                " shift and seed."
            )
        for k in ours["settings"]["ranks"]:
            found = [_among(rank, k) for _, rank in queries.values()]
            found_there = [_among(conditions[condition][name][1], k) for name in queries]
            result = compare(found, found_there)
            shares = [f"{100 * sum(hits) / len(hits):.1f}" for hits in (found, found_there)]
            counts = [str(result.first_only), str(result.second_only)]
            rows.append([_title(condition), f"Acc@{k}", *shares, *counts, f"{result.p:.4f}"])
    if len(rows) == 1:
        raise InputError("The two evaluations have no kind of query in common.")
    return rows


def _by_condition(
    evaluation: dict[str, Any],
) -> dict[tuple[str, ...], dict[tuple[str, int], tuple[Any, int | None]]]:
    """Box and rank of every query by its field and number, by condition."""
    conditions: dict[tuple[str, ...], dict[tuple[str, int], tuple[Any, int | None]]] = {}
    for query in evaluation["queries"]:
        condition = tuple(query["condition"][name] for name in _CONDITION)
        box = None if query["box"] is None else tuple(map(tuple, query["box"]))
        conditions.setdefault(condition, {})[query["field"], query["number"]] = (box, query["rank"])
    return conditions


def _among(rank: int | None, k: int) -> bool:
    return rank is not None and rank <= k


def _title(condition: tuple[str, ...]) -> str:
    query, repository, pose, size = condition
    return f"{query}{'(T)' if pose == 'transformed' else ''} in {repository}, {size}"
