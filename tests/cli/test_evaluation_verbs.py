import json

import pytest
import torch

from napari_cmrir.cli.main import main
from napari_cmrir.cli.options import spread
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.training_settings import TrainingSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three small pairs and an untrained model."""
    folder = tmp_path_factory.mktemp("verbs")
    write_sample_folder(folder / "pairs", range(3), 96, ("SHG", "BF"))
    settings = TrainingSettings(widths=(4, 8), stem=1)
    torch.manual_seed(0)
    intensities = {"SHG": Intensity(low=(0,), high=(4095,)), "BF": Intensity(low=(0,) * 3, high=(255,) * 3)}
    networks = {m: build_network(settings, i.channels).eval() for m, i in intensities.items()}
    scales = {}
    for modality, network in networks.items():
        with torch.inference_mode():
            output = network(torch.rand(1, intensities[modality].channels, 64, 64))
        scales[modality] = OutputScale((float(output.mean()),), (float(output.std()) / 4,))
    model = ComirModel(("SHG", "BF"), settings, intensities, networks, scales)
    model.save(folder / "model.safetensors")
    return folder


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code, *capsys.readouterr()


def test_evaluate_prints_the_table_and_writes_the_report(folder, tmp_path, capsys):
    ask = ["evaluate", folder / "model.safetensors", folder / "pairs", "--modalities", "SHG", "BF"]
    ask += ["--field-size", "96", "--query", "full", "--no-within", "--no-untransformed"]
    status, out, err = run([*ask, "--k", "1", "2", "-o", tmp_path / "out", "--rerank", "none"], capsys)
    assert status == 0, err
    assert "Acc@1" in out
    assert "Acc@2" in out
    assert "Acc@5" not in out
    assert "SHG(T) in BF, full" in out
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["settings"]["ranks"] == [1, 2]
    assert (tmp_path / "out" / "report.html").exists()
    status, out, err = run([*ask, "--k", "1", "--compare", tmp_path / "out"], capsys)
    assert status == 0, err
    assert "p (McNemar)" in out


def test_evaluate_keeps_the_calibration_with_the_model(folder, tmp_path, capsys):
    model = tmp_path / "model.safetensors"
    model.write_bytes((folder / "model.safetensors").read_bytes())
    ask = ["evaluate", model, folder / "pairs", "--modalities", "SHG", "BF", "--field-size", "96"]
    ask += ["--query", "full", "--no-untransformed", "--calibrate", model]
    status, out, err = run(ask, capsys)
    assert status == 0, err
    assert "Confidence calibrated on 12 first hits" in out
    assert f"Kept with {model}" in out
    before, after = (load_model(path) for path in (folder / "model.safetensors", model))
    assert after.fingerprint == before.fingerprint
    assert after.provenance["calibration"]["queries"] == 12
    (tmp_path / "notes.txt").write_text("no model")
    ask[-1] = tmp_path / "notes.txt"
    status, _, err = run(ask, capsys)
    assert status == 2
    assert "is not a model" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--modalities", "SHG", "CT"], "no pair"),
        (["--field-size", "3"], "--field-size"),
        (["--descriptor", "orb"], "There is no descriptor 'orb'"),
        (["--compare", "nowhere"], "is not the evaluation.json"),
    ],
)
def test_bad_use_is_one_line_and_status_2(folder, capsys, change, message):
    ask = ["evaluate", folder / "model.safetensors", folder / "pairs", "--modalities", "SHG", "BF", *change]
    status, out, err = run(ask, capsys)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_study_prints_the_papers_tables(folder, tmp_path, capsys):
    ask = ["study", folder / "model.safetensors", folder / "pairs", "--modalities", "SHG", "BF"]
    ask += ["--field-size", "96", "--query", "full", "--no-within", "--no-untransformed", "-o", tmp_path]
    ask += ["--representations", "original", "comir", "--descriptors", "surf", "--rerankers", "none"]
    status, out, err = run(ask, capsys)
    assert status == 0, err
    assert "Table 1: full image, top-10 success, no re-ranking" in out
    assert "paper: BF" in out
    assert (tmp_path / "study.md").read_text().strip() == out.strip()
    assert len(list((tmp_path / "conditions").iterdir())) == 2


@pytest.mark.parametrize("named", [[], ["comir"], ["starter"], ["comir", "comir-any"]])
def test_study_of_the_starter_trains_nothing_and_compares_it_with_other_systems(
    folder, tmp_path, capsys, named
):
    ask = ["study", "starter", folder / "pairs", "--modalities", "SHG", "BF", "--field-size", "96"]
    ask += ["--query", "full", "--no-within", "--no-untransformed", "-o", tmp_path]
    ask += ["--descriptors", "surf", "--rerankers", "registration"]
    ask += ["--retrievers", "mutual-information", "gradient-sift"]
    ask += ["--representations", *named] if named else []
    status, out, err = run(ask, capsys)
    assert status == 0, err
    for other in ("mutual-information", "gradient-sift"):
        assert f"| surf on comir-any, re-ranking registration | {other}" in out


def test_a_study_evaluates_all_but_a_system_that_fails_and_ends_with_status_1(folder, tmp_path, capsys):
    ask = ["study", "starter", folder / "pairs", "--modalities", "SHG", "BF", "--field-size", "96"]
    ask += ["--query", "patch", "--patch-size", "32", "--no-within", "--no-untransformed", "-o", tmp_path]
    ask += ["--representations", "original", "--descriptors", "surf", "--rerankers", "none"]
    status, out, err = run([*ask, "--retrievers", "2dkd", "tcnet"], capsys)
    assert status == 1
    assert "| surf" in out
    assert "### Failed" in out
    assert "napari-cmrir: A query of 32 x 32 px is smaller than the frame of 2DKD" in err
    assert "Failed: 2dkd; the others are evaluated." in err
    assert "at least two training pairs" in out  # missing, which is no failure
    assert "training pairs" not in err


def test_datasets_without_network_is_status_2(tmp_path, capsys):
    status, _, err = run(["datasets", "fetch", "-o", tmp_path, "--server", "http://127.0.0.1:9"], capsys)
    assert status == 2
    assert "cannot be reached; check the network" in err


def test_options_take_all_values_up_to_the_next():
    assert spread(["m", "--k", "1", "5", "-o", "x", "--k", "7"], ["--k"]) == [
        *("m", "--k", "1", "--k", "5", "-o", "x", "--k", "7")
    ]
    assert spread(["--k"], ["--k"]) == ["--k"]
    assert spread(["--k", "--seed", "1"], ["--k"]) == ["--k", "--seed", "1"]
    assert spread(["--k=3", "p"], ["--k"]) == ["--k=3", "p"]
