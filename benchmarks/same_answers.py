"""Compare the answers of two versions of the code: hits, boxes, scores and confidences.

    python benchmarks/same_answers.py MODEL PAIRS --modalities SHG BF \
        --before old/src kept/before --after src kept/after [--variants default none bow paper paper-none]

Each version indexes the images of both modalities and searches the images of the other modality in them,
whole and one patch of each, through its own command line. The variants paper and paper-none search with the
paper's settings; a version whose `query` has no --preset does so through its Python API. Scores of paper-none
are those of the words. The answers of a version are saved in its folder. They are used again if the source
files are unchanged; those of --before also if the folder does not name its sources. Without --after, only the
answers of --before are computed. The exit status is 1 if the answers differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ALL = ["-k", 1000]  # every image is a hit, so that all scores are compared
VARIANTS: dict[str, list[Any]] = {
    "default": [],
    "none": ["--rerank", "none"],
    "bow": ["--rerank", "bow"],
    "paper": ["--preset", "paper", *ALL],
    "paper-none": ["--preset", "paper", "--rerank", "none", *ALL],
}
REGION = (80, 112, 96, 96)
"""y, x, height, width of the patches in pixels: the size of which the results speak (docs/results.md)."""

ALLOWED = {"box": 1e-3, "score": 1e-4, "confidence": 1e-4}
"""Largest differences allowed, in pixels for boxes."""

WORDS_ALLOWED = 1e-6  # of the scores of paper-none, which are those of the words
ROUNDING = 1 + 1e-6  # rounded decimals, such as 0.123 - 0.122, can differ by a little more than 0.001

PROGRAM = "from napari_cmrir.cli.main import main; main()"
PAPER = """
import json, os, sys
from napari_cmrir import build_repository, load_model, open_repository, query, read_image, run
from napari_cmrir.images.geometry import Region
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.settings import SearchSettings

asked = json.loads(sys.argv[1])
if not os.path.exists(asked["repository"]):
    model, settings = load_model(asked["model"]), RepositorySettings.paper()
    run(build_repository([asked["pairs"]], model, asked["searched"], asked["repository"], settings)).close()
settings = SearchSettings(
    rerank=asked["rerank"], hits=1000, register_all=0, shortlist_by="words", word_rotation_step=0.0
)
queries = []
with open_repository(asked["repository"]) as repository:
    for path in asked["images"]:
        region = Region.from_rectangle(*asked["region"]) if asked["region"] else None
        found = run(query(repository, read_image(path), asked["modality"], region=region, settings=settings))
        hits = [{**hit.as_dict(), "score": float(hit.score)} for hit in found.hits]
        queries.append({"image": path, "hits": hits})
with open(asked["json"], "w") as file:
    json.dump({"queries": queries}, file, indent=1, allow_nan=False)
"""
"""The paper's search through the public API, for a version whose command line does not offer it."""


class Version:
    """A version of the code, and the folder that keeps what it answered.

    Parameters
    ----------
    source : Path
        Its source tree, which holds ``napari_cmrir``.
    kept : Path
        Answers and repositories; made where it is missing.
    is_before : bool
        Answers of unknown sources count as those of this version.
    """

    def __init__(self, source: Path, kept: Path, is_before: bool) -> None:
        self.source, self.kept = source.resolve(), kept
        note = kept / "sources.sha256"
        known = note.read_text().strip() if note.exists() else None
        digest = self.digest()
        if kept.exists() and known != digest and not (known is None and is_before):
            for old in (*kept.glob("*.json"), *kept.glob("*.cmrir")):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        kept.mkdir(parents=True, exist_ok=True)
        if not any(kept.glob("*.json")):
            note.write_text(digest + "\n")

    def digest(self) -> str:
        """Return the SHA-256 of all source files."""
        sha256 = hashlib.sha256()
        for path in sorted(self.source.joinpath("napari_cmrir").rglob("*.py")):
            sha256.update(str(path.relative_to(self.source)).encode() + b"\0" + path.read_bytes() + b"\0")
        return sha256.hexdigest()

    def python(self, program: str, *arguments: object) -> str:
        """Run a program with this version in a separate process, and return its output."""
        environment = os.environ | {"PYTHONPATH": str(self.source)}
        command = [sys.executable, "-c", program, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, arguments[:3]))} failed with {self.source}:\n{done.stderr[-2000:]}")
        return done.stdout

    def offers(self, verb: str, option: str) -> bool:
        """Return whether a command has an option."""
        return option in self.python(PROGRAM, verb, "--help")

    def answer(
        self, name: str, searched: str, asked: str, variant: str, is_patch: bool, options: Any
    ) -> None:
        """Search the images of a modality among those of the other, and save the answers."""
        images = sorted(Path(options.pairs).glob(f"*_{asked}.*"))[: options.first]
        is_paper = variant.startswith("paper")
        repository = self.kept / f"{searched}{'-paper' if is_paper else ''}.cmrir"
        region = REGION if is_patch else None
        partial = self.kept / f"{name}.partial"
        if is_paper and not self.offers("query", "--preset"):
            question = {
                "model": options.model,
                "pairs": options.pairs,
                "searched": searched,
                "repository": str(repository),
                "images": [str(image) for image in images],
                "modality": asked,
                "region": region,
                "rerank": "none" if variant == "paper-none" else "bow",
                "json": str(partial),
            }
            self.python(PAPER, json.dumps(question))
        else:
            if not repository.exists():
                preset = ["--preset", "paper"] if is_paper and self.offers("index", "--preset") else []
                index = ["index", options.pairs, "--model", options.model, "--modality", searched]
                self.python(PROGRAM, *index, "-o", repository, *preset)
            where = ["--region", *region] if region else []
            query = ["query", repository, *images, "--modality", asked, "--json", partial]
            self.python(PROGRAM, *query, *where, *VARIANTS[variant])
        partial.rename(self.kept / f"{name}.json")

    def answers(self, name: str, *question: Any) -> dict[str, dict[str, Any]]:
        """Return the answers to the queries of a search by image, computed now or saved before."""
        file = self.kept / f"{name}.json"
        if not file.exists():
            self.answer(name, *question)
        return {Path(query["image"]).name: query for query in json.loads(file.read_text())["queries"]}


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, float], str | None]:
    """Compare the answers to a query.

    Returns
    -------
    differences : dict
        The largest of boxes, scores and confidences; infinite where only one of two numbers is known.
    other : str or None
        What else differs, or is missing.
    """
    most = dict.fromkeys(ALLOWED, 0.0)
    if before.get("error") or after.get("error"):
        return most, f"failed: {before.get('error')} | {after.get('error')}"
    ours, theirs = before["hits"], after["hits"]
    if not ours or len(ours) != len(theirs):
        return most, f"{len(ours)} hits before, {len(theirs)} after"
    for one, other in zip(ours, theirs, strict=True):
        if Path(one["image"]).name != Path(other["image"]).name:
            images = " | ".join(f"{Path(hit['image']).name} {hit['score']:.6f}" for hit in (one, other))
            return most, f"rank {one['rank']}: {images}"
        for key in most:
            most[key] = max(most[key], difference(one[key], other[key]))
    return most, None


def difference(one: Any, other: Any) -> float:
    """Return the largest difference of two numbers, or arrays of them; infinite if only one is known."""
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return float(np.abs(np.subtract(one, other)).max())


def main() -> None:
    """Compare two versions and print a table; exit with 1 where they differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--before", nargs=2, type=Path, required=True, metavar=("SOURCE", "KEPT"))
    parser.add_argument("--after", nargs=2, type=Path, metavar=("SOURCE", "KEPT"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default"])
    parser.add_argument("--first", type=int, help="number of query images of each modality")
    options = parser.parse_args()
    before = Version(*options.before, is_before=True)
    after = Version(*options.after, is_before=False) if options.after else before
    print(
        "| search | queries | other hits | box, px | score | confidence |\n|---|---|---|---|---|---|",
        flush=True,
    )
    same, details = True, []
    for searched, asked in (options.modalities, options.modalities[::-1]):
        for variant in options.variants:
            for size in ("whole", "patch"):
                name = f"{asked}-in-{searched}-{size}-{variant}"
                question = (name, searched, asked, variant, size == "patch", options)
                old, new = before.answers(*question), after.answers(*question)
                images = sorted(old.keys() | new.keys())
                if options.first:
                    images = sorted(old)[: options.first]
                compared = [compare(old.get(i, {"hits": []}), new.get(i, {"hits": []})) for i in images]
                others = [
                    f"{name}, {i}: {other}" for i, (_, other) in zip(images, compared, strict=True) if other
                ]
                most = {key: max(differences[key] for differences, _ in compared) for key in ALLOWED}
                numbers = " | ".join(f"{value:.1e}" for value in most.values())
                print(f"| {name} | {len(images)} | {len(others)} | {numbers} |", flush=True)
                allowed = ALLOWED | ({"score": WORDS_ALLOWED} if variant == "paper-none" else {})
                same &= not others and all(most[key] <= allowed[key] * ROUNDING for key in most)
                details += others
    for line in details:
        print(line)
    if after is before:
        print("The answers before are kept; nothing was compared.")
        sys.exit(0)
    print("The answers are the same." if same else "The answers differ.")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
