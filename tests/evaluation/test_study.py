import dataclasses
import json

import numpy as np
import pytest
import tifffile

from napari_cmrir import jobs
from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.records import StudySettings, Variant
from napari_cmrir.evaluation.report.comparison import REPLACEMENT, RERANKING, published_figures
from napari_cmrir.evaluation.report.tables import study_tables
from napari_cmrir.evaluation.retrievers.base import RETRIEVERS, Retriever
from napari_cmrir.evaluation.retrievers.krawtchouk import Krawtchouk
from napari_cmrir.evaluation.retrievers.tcnet import TcNet
from napari_cmrir.evaluation.study import StudyReport, study
from napari_cmrir.representations.base import represent, train
from napari_cmrir.representations.original import fit_original
from napari_cmrir.representations.training_settings import PIX2PIX_PRESETS, Pix2PixSettings

BOTH = ("SHG", "BF")


@pytest.fixture(scope="module")
def asked(small):
    evaluation = small.model_copy(
        update={"query": "full", "kinds": ("cross",), "poses": ("transformed",), "ranks": (1, 10), "hits": 1}
    )
    return StudySettings(descriptors=("surf",), rerankings=("none", "registration"), evaluation=evaluation)


def test_a_study_that_was_broken_off_goes_on_where_it_stopped(grey_model, pairs, asked, tmp_path):
    two, conditions = pairs[:2], tmp_path / "study" / "conditions"
    job = study(grey_model, two, BOTH, asked, output=tmp_path / "study")
    for _ in job:
        if len(list(conditions.glob("*.json"))) == 2:
            break
    job.close()
    done = {file: file.stat().st_mtime_ns for file in conditions.glob("*.json")}
    assert len(done) == 2
    report = jobs.run(study(grey_model, two, BOTH, asked, output=tmp_path / "study"))
    assert len(list(conditions.glob("*.json"))) == 4
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert len(list((tmp_path / "study" / "repositories").iterdir())) == 4  # two are searched twice
    whole = jobs.run(study(grey_model, two, BOTH, asked, output=tmp_path / "again"))
    assert [str(variant) for variant in whole.variants] == [
        "surf on original, re-ranking none",
        "surf on original, re-ranking registration",
        "surf on comir, re-ranking none",
        "surf on comir, re-ranking registration",
    ]
    for variant, evaluation in whole.variants.items():
        del evaluation["seconds"], report.variants[variant]["seconds"]
        assert evaluation == report.variants[variant]


def test_other_images_and_settings_are_evaluated_anew(grey_model, pairs, asked, tmp_path):
    one = asked.model_copy(update={"representations": ("comir",), "rerankings": ("none",)})
    pair = pairs[0]
    for image in pair.paths:
        (tmp_path / image.name).write_bytes(image.read_bytes())
    moved = type(pair)(pair.identifier, tuple(tmp_path / image.name for image in pair.paths))
    conditions = tmp_path / "study" / "conditions"

    def cells_after(settings):
        jobs.run(study(grey_model, [moved], BOTH, settings, output=tmp_path / "study"))
        return len(list(conditions.iterdir()))

    assert cells_after(one) == 1
    assert cells_after(one) == 1
    evaluation = one.evaluation.model_copy(update={"seed": 9})
    assert cells_after(one.model_copy(update={"evaluation": evaluation})) == 2
    tifffile.imwrite(moved.paths[0], np.flipud(tifffile.imread(moved.paths[0])))
    assert cells_after(one) == 3


def test_a_variant_changes_its_own_stage_and_is_re_ranked_across_modalities(asked):
    evaluation = asked.evaluation.model_copy(update={"kinds": ("cross", "within"), "seed": 5})
    asked = asked.model_copy(update={"evaluation": evaluation})
    plain = Variant("sift", "comir", "none").settings(asked)
    assert plain.repository.descriptor.name == "sift"
    assert plain.repository.vocabulary == asked.evaluation.repository.vocabulary
    assert (plain.search.rerank, plain.kinds, plain.seed) == ("none", ("cross", "within"), 5)
    ranked = Variant("surf", "comir", "bow-15").settings(asked)
    assert (ranked.search.rerank, ranked.search.shortlist, ranked.kinds) == ("bow", 15, ("cross",))
    everywhere = asked.model_copy(update={"rerank_within": True})
    assert Variant("surf", "comir", "bow").settings(everywhere).kinds == ("cross", "within")


@pytest.mark.parametrize("name", ["representations", "descriptors", "rerankings", "retrievers"])
def test_unknown_names_are_refused(grey_model, pairs, tmp_path, name):
    settings = StudySettings(**{name: ("magic",)})
    with pytest.raises(InputError, match=r"There is no .* 'magic'; choose from"):
        next(study(grey_model, pairs, BOTH, settings, output=tmp_path))


def test_originals_are_represented_by_their_grey_values():
    rng = np.random.default_rng(0)
    bf = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    shg = rng.integers(0, 4096, (40, 50, 1), dtype=np.uint16)
    model = fit_original({"BF": [bf], "SHG": [shg]}, ("BF", "SHG"))
    for modality, image in (("BF", bf), ("SHG", shg)):
        low, high = (np.percentile(image.reshape(-1, image.shape[2]), q, axis=0) for q in (0.1, 99.9))
        expected = 255 * ((image - low) / (high - low)).clip(0, 2).mean(axis=2).clip(0, 1)
        comir = jobs.run(represent(model, image, modality, device="cpu"))
        assert comir.shape == (1, 40, 50)
        assert np.abs(comir[0] - expected).max() < 3  # low is not clipped at 0 but at -0.5


def made_up(modalities):
    """A study whose success among the first ten is 1 of 4 if transformed, 2 of 4 if not; first: 0."""
    share = {"count": 0, "total": 4, "share": 0.0, "low": 0.0, "high": 1.0}
    conditions = [
        {
            "query": query,
            "repository": repository,
            "pose": pose,
            "size": size,
            "fields": 40,
            "chance": {"1": 0.025, "10": 0.25},
            "kind": "within" if query == repository else "cross",
            "success": {"1": share, "10": {**share, "count": 1 if pose == "transformed" else 2}},
        }
        for query in modalities
        for repository in modalities
        for pose in ("transformed", "untransformed")
        for size in ("full", "patch")
    ]
    settings = StudySettings()
    settings = settings.model_copy(
        update={"evaluation": settings.evaluation.model_copy(update={"ranks": (1, 10)})}
    )
    variants = {variant: {"conditions": conditions} for variant in settings.variants()}
    return StudyReport(modalities, settings, variants)


def rows_of(text, title):
    section = next(part for part in text.split("### ") if part.startswith(title))
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[text.strip() for text in line.strip("|").split("|")] for line in lines[:1] + lines[2:]]


@pytest.mark.parametrize("modalities", [("BF", "SHG"), ("SHG", "BF")])
def test_the_papers_figures_stand_under_their_own_columns(modalities):
    text = study_tables(made_up(modalities))
    assert "40 fields are searched, of which chance finds 2.5 % for the first 1, 25.0 %" in text
    heading, *rows = rows_of(text, "Table 1: full image, top-10 success, no re-ranking")
    assert heading[3:] == [f"{m}{t}" for m in modalities for t in ("", "(T)")]
    ours = next(row for row in rows if row[:3] == ["surf", "comir", "BF"])
    paper = next(row for row in rows if row[:3] == ["surf", "comir", "paper: BF"])
    assert rows.index(paper) == rows.index(ours) + 1
    assert paper[heading.index("SHG(T)")] == "61.2"
    assert paper[heading.index("BF(T)")] == "93.8"
    assert ours[heading.index("SHG(T)")].startswith("25.0 [")
    assert ours[heading.index("SHG")].startswith("50.0 [")


def test_the_papers_figures_stand_in_their_place_beside_other_modalities():
    text = study_tables(made_up(("VIS", "IR")))
    rows = rows_of(text, "Table 1: image patch, top-10 success, no re-ranking")
    row = next(row for row in rows if row[:3] == ["surf", "comir", "paper: SHG"])
    assert row[3:] == ["52.2", "35.8", "100", "73.x"]
    heading, *rows = rows_of(text, "Table 2: full image, IR(T) in VIS, surf on comir")
    assert heading == ["Re-ranking", "top-1", "top-10"]
    assert ["Re-ranking 30", "0.0 [0.0, 100.0]", "25.0 [0.0, 100.0]"] in rows
    assert rows[rows.index(["Re-ranking 30", "0.0 [0.0, 100.0]", "25.0 [0.0, 100.0]"]) + 1] == [
        "paper: SHG(T)",
        "45.5",
        "83.6",
    ]
    rows = rows_of(text, "Table 3: full image")
    assert ["paper: proposed", "paper: SHG", "86.6", "75.4", "-", "-"] in rows
    assert ["paper: TC-Net", "paper: BF", "-", "-", "47.8", "43.4"] in rows


def test_a_descriptor_of_any_name_is_compared_with_the_competitors():
    """The first word of a row does not decide whether it is one of the paper's."""
    report = made_up(("BF", "SHG"))
    named = {
        dataclasses.replace(variant, descriptor=f"paper-{variant.descriptor}"): found
        for variant, found in report.variants.items()
    }
    settings = report.settings.model_copy(update={"descriptors": ("paper-sift", "paper-surf")})
    rows = rows_of(study_tables(StudyReport(("BF", "SHG"), settings, named)), "Table 3: full image")
    assert any(row[0].startswith("paper-surf on comir") and row[-1] != "-" for row in rows[1:])


def test_the_search_is_compared_with_every_system_query_by_query():
    report = made_up(("BF", "SHG"))
    search, other = [1, 1, 1, 1, 1, 1, 12, None], [1, 2, 11, 40, None, 3, 1, 2]
    conditions = next(iter(report.variants.values()))["conditions"]
    retrieved = [{**condition, "ranks": other} for condition in conditions]
    variants = {
        dataclasses.replace(variant, representation="comir-any"): {
            **found,
            "queries": [{"condition": one, "rank": rank} for one in conditions for rank in search],
        }
        for variant, found in report.variants.items()
        if variant == Variant("surf", "comir", "registration")
    }
    report = dataclasses.replace(
        report, variants=variants, retrievers={"mean grey": {"conditions": retrieved}}
    )
    heading, *rows = rows_of(study_tables(report), "The search against the other systems")
    assert heading[-1] == "p (McNemar)"
    assert len(rows) == 2 * 2 * 2 * 2  # across modalities: 2 ways, 2 poses, 2 sizes; among the first 1 and 10
    name = "surf on comir-any, re-ranking registration"
    # first: 6 of 8 against 2 of 8, 5 of them ours alone, 1 the other's: p = 2 (1 + 6) / 2**6
    assert [name, "mean grey", "SHG(T) in BF, full", "Acc@1", "75.0", "25.0", "5", "1", "0.22"] in rows
    assert [name, "mean grey", "BF in SHG, patch", "Acc@10", "75.0", "62.5", "3", "2", "1"] in rows


def test_what_a_system_was_made_with_is_told(tmp_path):
    fast, whole = TcNet.quick(tmp_path), TcNet(tmp_path)
    assert [fast.card(11)[name] for name in ("preset", "steps", "seed", "trained_on", "weights")] == [
        *("fast", 16, 0, 11, "a639ec97")
    ]
    assert [whole.card(40)[name] for name in ("preset", "steps", "weights")] == ["paper", 2000, "b2777c0a"]
    assert [Krawtchouk(tmp_path).card(11)[name] for name in ("preset", "weights")] == ["paper", "-"]


def test_figures_that_are_no_share_of_the_papers_queries_are_counted():
    figures = published_figures()
    tenths = {(2000 * k + 134) // 268 for k in range(135)}  # of a percent, rounded in whole numbers
    odd = [figure for figure in figures if int(figure.replace(".", "")) not in tenths]
    assert f"{len(odd)} of {len(figures)} figures of its tables are no share" in study_tables(
        made_up(("BF", "SHG"))
    )
    assert {"71.4", "97.3", "43.4"} <= set(odd)


def test_the_published_tables_agree_with_each_other():
    """Table 1's cells of SURF on CoMIRs are Table 2's top-10 without re-ranking."""
    for size in ("full", "patch"):
        proposed = REPLACEMENT[size]["surf", "comir"]
        assert proposed["SHG"][1] == RERANKING[size]["BF"]["none"][2]
        assert proposed["BF"][3] == RERANKING[size]["SHG"]["none"][2]
    assert json.dumps(REPLACEMENT["full"]["surf", "comir"]["BF"]) == '["100.0", "93.8", "71.4", "61.2"]'


class MeanGrey(Retriever):
    """Ranks images by how near their mean grey value is, mapped as a line through the training pairs."""

    def fit(self, pairs, modalities):
        means = np.array([[tifffile.imread(path).mean() for path in pair.paths] for pair in pairs])
        self.lines = {}
        for query, (first, second) in zip(modalities, ((0, 1), (1, 0)), strict=True):
            self.lines[query] = np.polyfit(means[:, first], means[:, second], 1)
        yield from ()

    def index(self, images, modality):
        self.means = {name: pixels.mean() for name, pixels in images.items()}
        yield from ()

    def rank(self, pixels, modality, *, region=None, mask=None):
        expected = np.polyval(
            self.lines[modality], pixels[mask].mean() if mask is not None else pixels.mean()
        )
        yield from ()
        return {name: -abs(mean - expected) for name, mean in self.means.items()}


def test_whole_systems_are_asked_the_same_queries(grey_model, pairs, asked, tmp_path):
    if "mean grey" not in RETRIEVERS:
        RETRIEVERS.register("mean grey")(MeanGrey)
    settings = asked.model_copy(
        update={"representations": ("comir",), "rerankings": ("none",), "retrievers": ("mean grey",)}
    )
    output = tmp_path / "study"

    def run_study():
        job = study(grey_model, pairs[:2], BOTH, settings, output=output, training_pairs=pairs[2:])
        return jobs.run(job)

    report = run_study()
    variant = next(iter(report.variants))
    for query, repository in (("SHG", "BF"), ("BF", "SHG")):
        place = (query, repository, "transformed", "full")
        figures = report.condition("mean grey", *place)
        assert len(figures["ranks"]) == report.condition(variant, *place)["queries"]
        assert figures["success"]["1"]["count"] == figures["ranks"].count(1)
    assert any(row[0] == "mean grey" for row in rows_of(study_tables(report), "Table 3: full image"))
    assert rows_of(study_tables(report), "The search against the other systems")[1][1] == "mean grey"
    row = next(row for row in rows_of(study_tables(report), "Models") if row[0] == "mean grey")
    assert row[1:] == ["-", "-", "-", "4", "-", "-"]  # it was fitted to four pairs
    file = next((output / "retrievers").glob("*.json"))
    written = file.stat().st_mtime_ns
    assert run_study().retrievers == report.retrievers
    assert file.stat().st_mtime_ns == written


FEW = Pix2PixSettings(steps=2, batch_size=2, patch_size=32, filters=4, downs=5)


def test_what_has_no_weights_is_told_and_the_rest_is_evaluated(
    grey_model, pairs, asked, tmp_path, monkeypatch
):
    """No model of pix2pix, no weights of ResNet152, and no training pairs for TC-Net."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    settings = asked.model_copy(
        update={
            "representations": ("comir", "pix2pix"),
            "descriptors": ("resnet152", "surf"),
            "rerankings": ("none",),
            "retrievers": ("tcnet", "2dkd"),
        }
    )
    report = jobs.run(study(grey_model, pairs[:2], BOTH, settings, output=tmp_path / "study"))
    assert [str(variant) for variant in report.variants] == ["surf on comir, re-ranking none"]
    assert list(report.retrievers) == ["2dkd"]
    assert list(report.missing) == [
        "resnet152 on pix2pix, re-ranking none",
        "surf on pix2pix, re-ranking none",
        "resnet152 on comir, re-ranking none",
        "tcnet",
    ]
    assert "train --representation pix2pix" in report.missing["surf on pix2pix, re-ranking none"]
    assert "resnet152" in report.missing["resnet152 on comir, re-ranking none"]
    assert "at least two training pairs" in report.missing["tcnet"]
    heading, *rows = rows_of(study_tables(report), "Missing")
    assert heading == ["Not evaluated", "Why"]
    assert rows[0][0] == "resnet152 on pix2pix, re-ranking none, surf on pix2pix, re-ranking none"
    assert len(rows) == 3


def test_what_fails_is_told_apart_from_what_is_missing(grey_model, pairs, asked, tmp_path, monkeypatch):
    """The weights of ResNet152 are of another training, 2DKD cannot describe 32 px, TC-Net has no pairs."""
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "resnet152-394f9c45.pth").write_bytes(b"others")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    evaluation = asked.evaluation.model_copy(update={"query": "patch", "patch_size": 32})
    settings = asked.model_copy(
        update={
            "representations": ("comir",),
            "descriptors": ("resnet152", "surf"),
            "rerankings": ("none",),
            "retrievers": ("2dkd", "tcnet"),
            "evaluation": evaluation,
        }
    )
    report = jobs.run(study(grey_model, pairs[:2], BOTH, settings, output=tmp_path / "study"))
    assert [str(variant) for variant in report.variants] == ["surf on comir, re-ranking none"]
    assert list(report.missing) == ["tcnet"]
    assert list(report.failed) == ["resnet152 on comir, re-ranking none", "2dkd"]
    assert "not 394f9c45" in report.failed["resnet152 on comir, re-ranking none"]
    assert "A query of 32 x 32 px is smaller than the frame of 2DKD" in report.failed["2dkd"]
    text = study_tables(report)
    assert [row[0] for row in rows_of(text, "Failed")[1:]] == list(report.failed)
    assert [row[0] for row in rows_of(text, "Missing")[1:]] == ["tcnet"]


def test_a_study_of_which_nothing_can_be_evaluated_says_why(grey_model, pairs, asked, tmp_path):
    settings = asked.model_copy(update={"representations": ("cyclegan",)})
    with pytest.raises(InputError, match="There is no model of 'cyclegan'"):
        jobs.run(study(grey_model, pairs[:2], BOTH, settings, output=tmp_path / "study"))


@pytest.fixture(scope="module")
def translation(pairs):
    return jobs.run(train(pairs[2:], BOTH, FEW, representation="pix2pix"))


def test_a_translation_is_searched_in_both_of_its_modalities(grey_model, translation, pairs, asked, tmp_path):
    """The four searches of the paper's Table 1, and their controls."""
    evaluation = asked.evaluation.model_copy(update={"kinds": ("cross", "within")})
    settings = asked.model_copy(
        update={
            "representations": ("comir", "pix2pix"),
            "rerankings": ("none", "registration"),
            "reranked": ("comir",),
            "evaluation": evaluation,
        }
    )
    job = study(grey_model, pairs[:2], BOTH, settings, output=tmp_path / "study", models=[translation])
    report = jobs.run(job)
    spaces = [(variant.space, variant.reranking) for variant in report.variants]
    assert spaces == [
        ("comir", "none"),
        ("comir", "registration"),
        ("pix2pix in SHG", "none"),
        ("pix2pix in BF", "none"),
    ]
    in_bf = Variant("surf", "pix2pix", "none", "BF")
    in_shg = Variant("surf", "pix2pix", "none", "SHG")
    for variant in (in_bf, in_shg):
        for query in BOTH:
            for repository in BOTH:
                assert report.condition(variant, query, repository, "transformed", "full") is not None
    text = study_tables(report)
    rows = rows_of(text, "Table 1: full image, top-10 success, no re-ranking")
    ours = [row[:3] for row in rows if row[1].startswith("pix2pix")]
    marked = "pix2pix in BF (not comparable)"
    assert ["surf", marked, "fake BF"] in ours
    assert ["surf", marked, "BF"] in ours
    paper = next(row for row in rows if row[1:3] == ["pix2pix in BF", "paper: fake BF"])
    assert rows[0][3:] == ["SHG", "SHG(T)", "BF", "BF(T)"]
    assert paper[3:] == ["100.0", "67.9", "35.8", "31.3"]  # fake BF in fake BF, BF in fake BF
    assert "**pix2pix: own settings: not the published method, its figures are not comparable" in text
    _, *models = rows_of(text, "Models")
    row = next(row for row in models if row[0] == "pix2pix")
    assert row[1:5] == ["own", "2", "0", "4"]
    assert translation.fingerprint.startswith(row[5])


def test_a_quick_study_trains_what_it_has_no_model_of(grey_model, pairs, asked, tmp_path, monkeypatch):
    monkeypatch.setitem(PIX2PIX_PRESETS, "fast", FEW)
    settings = asked.model_copy(update={"representations": ("pix2pix",), "rerankings": ("none",)})
    output = tmp_path / "study"

    def run_study():
        how = {"training_pairs": pairs[2:], "quick": True, "output": output}
        return jobs.run(study(grey_model, pairs[:2], BOTH, settings, **how))

    report = run_study()
    assert {variant.target for variant in report.variants} == set(BOTH)
    assert report.models["pix2pix"]["preset"] == "fast"
    assert report.models["pix2pix"]["trained_on"] == 4
    assert "**pix2pix: fast preset: not the published method" in study_tables(report)
    (file,) = (output / "models").iterdir()
    written = file.stat().st_mtime_ns
    assert run_study().models == report.models
    assert file.stat().st_mtime_ns == written


def test_a_quick_study_asks_every_system_of_the_paper():
    quick = StudySettings.quick()
    assert set(quick.representations) == {"original", "comir", "pix2pix", "cyclegan"}
    assert set(quick.descriptors) == {"sift", "surf", "resnet152"}
    assert set(quick.retrievers) == {"2dkd", "tcnet", "imtdf"}
    reranked = {variant.representation for variant in quick.variants() if variant.reranking != "none"}
    assert reranked == {"comir"}


def test_the_published_figures_of_translations_have_all_four_searches():
    """Of baselines: fake BF in BF, BF in fake BF, fake SHG in SHG, SHG in fake SHG, plain / T."""
    for (features, method), expected in {
        ("sift", "cyclegan"): "15.7 16.4 26.1 24.6 14.2 13.4 15.7 18.7 70.9 48.5",
        ("sift", "pix2pix"): "14.2 21.6 20.9 22.4 14.2 14.2 0.0 18.7 20.2 26.1",
        ("surf", "cyclegan"): "21.6 17.2 35.8 23.9 12.7 12.7 14.2 12.7 78.4 88.8",
        ("surf", "pix2pix"): "20.9 12.7 35.8 31.3 26.1 19.4 35.1 31.3 67.9 85.1",
    }.items():
        in_bf, in_shg = (REPLACEMENT["full"][features, method, target] for target in ("BF", "SHG"))
        found = [*in_bf["BF"][2:], *in_bf["SHG"][:2], *in_shg["SHG"][:2], *in_shg["BF"][2:]]
        assert [*found, in_bf["SHG"][3], in_shg["BF"][1]] == expected.split()
