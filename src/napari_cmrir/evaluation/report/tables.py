"""The figures of an evaluation as tables, and those of a study in the layout of the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from napari_cmrir.evaluation.metrics import Share, compare
from napari_cmrir.evaluation.records import Variant
from napari_cmrir.evaluation.report.comparison import (
    COLUMNS,
    COMPETITORS,
    MODALITIES,
    REPLACEMENT,
    RERANKING,
    SUCCESS_RANKS,
    is_share,
    published_figures,
)
from napari_cmrir.evaluation.study import StudyReport
from napari_cmrir.evaluation.summaries import REFINED, ConditionSummary

__all__ = ["as_markdown", "evaluation_tables", "study_tables"]

Table = list[list[str]]
_TITLES = {"full": "full image", "patch": "image patch"}
_TITLE_OF_RERANKING = {
    "none": "No re-ranking",
    "bow-15": "Re-ranking 15",
    "bow": "Re-ranking 30",
    "registration": "Registration",
}


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write rows as an aligned Markdown table; the first row is the heading.

    Examples
    --------
    >>> print(as_markdown([["K", "share"], ["1", "75.4"]]))
    | K | share |
    |---|-------|
    | 1 | 75.4  |
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def evaluation_tables(summaries: Sequence[ConditionSummary]) -> dict[str, Table]:
    """Make tables of the figures of an evaluation, one row for each condition.

    Parameters
    ----------
    summaries : sequence of ConditionSummary

    Returns
    -------
    dict
        Tables by their titles, each a list of rows with the heading first. Shares are percentages with their
        95 % Wilson intervals.
    """
    ranks = list(summaries[0].success)
    found = [["Query", "n", *(f"Acc@{k}" for k in ranks), "MRR", "median rank", "p90 rank"]]
    findable = [["Query", "n", *(f"Acc@{k}" for k in ranks)]]
    located = [["Query", "n", "corner error px", "within 2 %", "within 5°", "s median", "s p95"]]
    for summary in summaries:
        found.append([str(summary.condition), str(summary.queries), *map(str, summary.success.values())])
        found[-1] += [f"{summary.mean_reciprocal_rank:.3f}"]
        found[-1] += [_number(summary.median_rank), _number(summary.p90_rank)]
        if summary.findable is not None:
            shares_of = list(summary.findable.values())
            texts = [str(share) if share.total else "-" for share in shares_of]
            findable.append([str(summary.condition), str(shares_of[0].total), *texts])
        located.append([str(summary.condition), str(summary.localised), _number(summary.median_corner_error)])
        shares = (summary.within_width, summary.within_degrees)
        located[-1] += [str(share) if summary.localised else "-" for share in shares]
        located[-1] += [_number(summary.median_seconds, 2), _number(summary.p95_seconds, 2)]
    tables = {f"Found among {summaries[0].fields} fields": found}
    if len(findable) > 1:
        tables["The same, of queries that show structure in both modalities"] = findable
    tables["Located, of those with a box on the right field"] = located
    confidence = _confidence_rows(summaries)
    if len(confidence) > 1:
        tables["Confidence of the first hit"] = confidence
    if summaries[0].screening is not None:
        tables["Stage that lost a query"] = _shortlist_rows(summaries)
    return tables


def _confidence_rows(summaries: Sequence[ConditionSummary]) -> Table:
    rows = [
        [
            "Query",
            "Brier",
            "calibration error",
            "right: reported reliable",
            "wrong: reported",
            "not in repository: reported",
        ]
    ]
    for summary in summaries:
        if summary.confidence is not None:
            found = summary.confidence
            shares = (
                found.reliable_when_right,
                found.reported_when_wrong,
                found.reported_when_not_in_repository,
            )
            rows.append([str(summary.condition), f"{found.brier:.3f}", f"{found.calibration_error:.3f}"])
            rows[-1] += [str(share) if share.total else "-" for share in shares]
    return rows


def _shortlist_rows(summaries: Sequence[ConditionSummary]) -> Table:
    ranks = list(summaries[0].success)
    rows = [
        ["Query", *(f"screening recall@{k}" for k in summaries[0].screening or {})]
        + [f"recall@{REFINED} after registration"]
        + [f"words recall@{k}" for k in summaries[0].shortlist or {}]
        + [f"upright only @{k}" for k in summaries[0].upright or {}]
        + [f"all registered Acc@{k}" for k in summaries[0].exhaustive or {}]
        + [f"lost (rank > {max(ranks)}): shortlist", "lost: re-ranking"]
    ]
    for summary in summaries:
        by_words = (*(summary.shortlist or {}).values(), *(summary.upright or {}).values())
        screened = (*(summary.screening or {}).values(), summary.registered)
        shares = (*screened, *by_words, *(summary.exhaustive or {}).values())
        lost = summary.lost or {}
        rows.append([str(summary.condition), *map(str, shares)])
        rows[-1] += [str(lost.get("shortlist", "-")), str(lost.get("reranking", "-"))]
    return rows


def study_tables(report: StudyReport) -> str:
    """Write a study as the paper's Tables 1 to 3 in Markdown, with the paper's figures beside its own.

    Our rows carry 95 % Wilson intervals. The paper's are those of 134 pairs of brightfield (BF) and second
    harmonic generation (SHG) images: the same modality where ours are the same, else the one in its place.

    Parameters
    ----------
    report : StudyReport

    Returns
    -------
    str
    """
    tables = [*_table_1(report), *_table_2(report), *_table_3(report)]
    tables += [_against_systems(report), _models(report)]
    tables += [_not_evaluated("Missing", report.missing), _not_evaluated("Failed", report.failed)]
    texts = [f"### {title}\n\n{as_markdown(rows)}" for title, rows in tables if len(rows) > 1]
    return "\n\n".join([_preface(report), *texts])


def _preface(report: StudyReport) -> str:
    """State the chance level of the percentages, and what must be said of them."""
    condition = next(
        condition
        for evaluation in (*report.variants.values(), *report.retrievers.values())
        for condition in evaluation["conditions"]
    )
    by_rank = condition.get("chance", {})
    chance = ", ".join(f"{100 * value:.1f} % for the first {k}" for k, value in by_rank.items())
    of_chance = f", of which chance finds {chance}" if chance else ""
    published = published_figures()
    odd = sum(not is_share(figure) for figure in published)
    text = (
        f"Percentages with their 95 % Wilson intervals; {condition['fields']} fields are searched{of_chance}."
        " (T): turned and shifted. The paper's rows are of its own 134 pairs, of which"
        " chance finds 7.5 % for the first 10; guessing gives 3.0 to 11.9 % there, and two of its runs of the"
        f" same cell differ by up to 4 points; {odd} of {len(published)} figures of its tables are no share"
        " of 134 queries, and may be means of several runs."
    )
    if any(variant.target for variant in report.variants):
        text += (
            " A translation is compared in one modality, such as 'pix2pix in BF': images of the other one are"
            " its fakes there, in the query or in the repository."
        )
    for name, caveat in _caveats(report).items():
        text += f"\n\n**{name}: {caveat}.**"
    return text


def _caveats(report: StudyReport) -> dict[str, str]:
    """What must be said of the figures of a representation or a complete system, by its name."""
    systems = {**report.models, **report.retrievers}
    return {name: system["caveat"] for name, system in systems.items() if system.get("caveat")}


def _marked(report: StudyReport, name: str, text: str) -> str:
    """Mark the name in a row whose figures need a caveat."""
    return f"{text} (not comparable)" if name in _caveats(report) else text


def _table_1(report: StudyReport) -> Iterator[tuple[str, Table]]:
    for size, reranking in product(_TITLES, report.settings.rerankings):
        rows = [["Features", "Representation", "Repository", *_columns(report)]]
        for variant in report.variants:
            if variant.reranking != reranking:
                continue
            descriptor, target = variant.descriptor, variant.target
            block = (_paper_modality(report, target),) if target else ()
            paper = REPLACEMENT[size].get((descriptor, variant.representation, *block), {})
            space = _marked(report, variant.representation, variant.space)
            for repository in report.modalities:
                ours = _ours(report, variant, repository, size)
                if any(text != "-" for text in ours):
                    held = f"fake {target}" if target not in ("", repository) else repository
                    rows.append([descriptor, space, held, *ours])
                    paper_modality = _paper_modality(report, repository)
                    if reranking == "none" and paper_modality in paper:
                        row = _in_our_order(report, paper[paper_modality])
                        theirs = (
                            f"fake {block[0]}" if block and block[0] != paper_modality else paper_modality
                        )
                        rows.append([descriptor, variant.space, f"paper: {theirs}", *row])
        yield f"Table 1: {_TITLES[size]}, top-10 success, {_TITLE_OF_RERANKING[reranking].lower()}", rows


def _models(report: StudyReport) -> tuple[str, Table]:
    """Say what every representation and every complete system was made with."""
    rows = [["Method", "Preset", "Steps", "Seed", "Training pairs", "Weights", "Note"]]
    systems = {name: found["card"] for name, found in report.retrievers.items() if "card" in found}
    for name, card in {**report.models, **systems}.items():
        values = ("-" if card[key] is None else str(card[key]) for key in ("steps", "seed", "trained_on"))
        rows.append([name, card["preset"], *values, card["weights"][:12], card["caveat"] or "-"])
    return "Models", rows


def _not_evaluated(title: str, reasons: Mapping[str, str]) -> tuple[str, Table]:
    """Say what was not evaluated, and why; what has the same reason shares a row."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return title, [["Not evaluated", "Why"], *([", ".join(own), why] for why, own in names.items())]


def _table_2(report: StudyReport) -> Iterator[tuple[str, Table]]:
    ranks = report.settings.evaluation.ranks
    spaces = dict.fromkeys((v.descriptor, v.representation, v.target) for v in report.variants)
    for size, query, (descriptor, representation, target) in product(_TITLES, report.modalities, spaces):
        repository = next(modality for modality in report.modalities if modality != query)
        rows = [["Re-ranking", *(f"top-{k}" for k in ranks)]]
        paper = RERANKING[size][_paper_modality(report, query)]
        for reranking in report.settings.rerankings:
            variant = Variant(descriptor, representation, reranking, target)
            condition = report.condition(variant, query, repository, "transformed", size)
            if condition is None:
                continue
            rows.append([_TITLE_OF_RERANKING[reranking], *(_share(condition, k) for k in ranks)])
            if (descriptor, representation) == ("surf", "comir") and reranking in paper:
                by_rank = dict(zip(SUCCESS_RANKS, paper[reranking], strict=True))
                name = f"paper: {_paper_modality(report, query)}(T)"
                rows.append([name, *(by_rank.get(k, "-") for k in ranks)])
        space = _marked(report, representation, Variant(descriptor, representation, "none", target).space)
        where = f"{query}(T) in {repository}, {descriptor} on {space}"
        yield f"Table 2: {_TITLES[size]}, {where}", rows


def _table_3(report: StudyReport) -> Iterator[tuple[str, Table]]:
    for size in _TITLES:
        rows, is_measured = [["Method", "Repository", *_columns(report)]], False
        for variant in report.variants:
            if _is_ours(variant) and variant.reranking in ("bow", "registration"):
                for repository in report.modalities:
                    ours = _ours(report, variant, repository, size, kinds=("cross",))
                    is_measured |= any(text != "-" for text in ours)
                    rows.append([str(variant), repository, *ours])
        for name in report.retrievers:
            for repository in report.modalities:
                ours = _ours(report, name, repository, size, kinds=("cross",))
                is_measured |= any(text != "-" for text in ours)
                rows.append([_marked(report, name, name), repository, *ours])
        if not is_measured:
            continue
        for method, by_repository in COMPETITORS[size].items():
            for repository in report.modalities:
                paper_modality = _paper_modality(report, repository)
                row = _in_our_order(report, by_repository[paper_modality])
                name = "paper: proposed" if method == "paper" else f"paper: {method}"
                rows.append([name, f"paper: {paper_modality}", *row])
        yield f"Table 3: {_TITLES[size]}, top-10 success across modalities", rows


def _against_systems(report: StudyReport) -> tuple[str, Table]:
    """Compare the search, registered where a variant is, with every complete system on the same queries."""
    ours = [variant for variant in report.variants if _is_ours(variant)]
    registered = [variant for variant in ours if variant.reranking == "registration"] or ours
    rows = [["System", "Other", "Query", "", "system", "other", "system only", "other only", "p (McNemar)"]]
    for variant, (name, retrieved) in product(registered, report.retrievers.items()):
        for condition in retrieved["conditions"]:
            ranks = report.ranks(variant, condition), report.ranks(name, condition)
            if condition["kind"] != "cross" or not ranks[0]:
                continue
            for k in sorted({1, 10} & set(report.settings.evaluation.ranks)):
                found = [[rank is not None and rank <= k for rank in each] for each in ranks]
                result = compare(*found)
                shares = [f"{100 * sum(hits) / len(hits):.1f}" for hits in found]
                turned = "(T)" if condition["pose"] == "transformed" else ""
                query = f"{condition['query']}{turned} in {condition['repository']}, {condition['size']}"
                counts = [str(result.first_only), str(result.second_only), f"{result.p:.2g}"]
                rows.append([str(variant), name, query, f"Acc@{k}", *shares, *counts])
    return "The search against the other systems, on the same queries", rows


def _is_ours(variant: Variant) -> bool:
    return variant.representation in ("comir", "comir-any")


def _columns(report: StudyReport) -> list[str]:
    return [name for modality in report.modalities for name in (modality, f"{modality}(T)")]


def _ours(
    report: StudyReport,
    system: Variant | str,
    repository: str,
    size: str,
    kinds: tuple[str, ...] = ("cross", "within"),
) -> list[str]:
    texts = []
    for query, pose in product(report.modalities, ("untransformed", "transformed")):
        condition = report.condition(system, query, repository, pose, size)
        texts.append("-" if condition is None or condition["kind"] not in kinds else _share(condition, 10))
    return texts


def _paper_modality(report: StudyReport, modality: str) -> str:
    """The paper's modality of the same name or, else, at the same position."""
    if {name.upper() for name in report.modalities} == set(MODALITIES):
        return modality.upper()
    return MODALITIES[report.modalities.index(modality)]


def _in_our_order(report: StudyReport, row: Sequence[str]) -> list[str]:
    by_column = dict(zip(COLUMNS, row, strict=True))
    names = [_paper_modality(report, modality) for modality in report.modalities]
    return [by_column[column] for name in names for column in (name, f"{name}(T)")]


def _share(condition: dict[str, Any], k: int) -> str:
    value = condition["success"].get(str(k))
    if value is None:
        return "-"
    return str(Share(value["count"], value["total"], value["low"], value["high"]))


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
