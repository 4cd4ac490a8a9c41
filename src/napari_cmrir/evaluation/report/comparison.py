"""Comparison of two evaluations of the same queries."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.metrics import compare

__all__ = ["compare_evaluations", "read_evaluation"]

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
        A table with its heading; a row for each common condition and each K of ours.

    Raises
    ------
    InputError
        If they have no condition in common, or the queries of one differ.

    Examples
    --------
    >>> one = {"query": "BF", "repository": "SHG", "pose": "transformed", "size": "full"}
    >>> def evaluation(*ranks):
    ...     queries = [
    ...         {"condition": one, "field": str(i), "box": None, "rank": rank}
    ...         for i, rank in enumerate(ranks)
    ...     ]
    ...     return {"settings": {"ranks": [1]}, "queries": queries}
    >>> compare_evaluations(evaluation(1, 1, 2), evaluation(4, 1, None))[1]
    ['BF(T) in SHG, full', 'Acc@1', '66.7', '33.3', '1', '0', '1.0000']
    """
    rows = [["Query", "", "this", "other", "this only", "other only", "p (McNemar)"]]
    theirs = _by_condition(other)
    for condition, queries in _by_condition(ours).items():
        if condition not in theirs:
            continue
        if {name: box for name, (box, _) in queries.items()} != {
            name: box for name, (box, _) in theirs[condition].items()
        }:
            raise InputError(
                "The two evaluations have different queries; give both the same pairs, sizes, rotation,"
                " shift and seed."
            )
        for k in ours["settings"]["ranks"]:
            found = [_among(rank, k) for _, rank in queries.values()]
            found_there = [_among(theirs[condition][name][1], k) for name in queries]
            result = compare(found, found_there)
            shares = [f"{100 * sum(hits) / len(hits):.1f}" for hits in (found, found_there)]
            counts = [str(result.first_only), str(result.second_only)]
            rows.append([_title(condition), f"Acc@{k}", *shares, *counts, f"{result.p:.4f}"])
    if len(rows) == 1:
        raise InputError("The two evaluations have no kind of query in common.")
    return rows


def _by_condition(evaluation: dict[str, Any]) -> dict[tuple[str, ...], dict[str, tuple[Any, int | None]]]:
    """Box and rank of every query by its field, by condition."""
    conditions: dict[tuple[str, ...], dict[str, tuple[Any, int | None]]] = {}
    for query in evaluation["queries"]:
        condition = tuple(query["condition"][name] for name in _CONDITION)
        box = None if query["box"] is None else tuple(map(tuple, query["box"]))
        conditions.setdefault(condition, {})[query["field"]] = (box, query["rank"])
    return conditions


def _among(rank: int | None, k: int) -> bool:
    return rank is not None and rank <= k


def _title(condition: tuple[str, ...]) -> str:
    query, repository, pose, size = condition
    return f"{query}{'(T)' if pose == 'transformed' else ''} in {repository}, {size}"
