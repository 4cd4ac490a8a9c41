"""Released checkpoints are imported; files that could run code are refused without running it."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.model import import_checkpoint

SHARED = Path(__file__).parents[3] / "shared" / "data" / "comir_checkpoint"


class Bomb:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def archive(path: Path, content: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("checkpoint/data.pkl", pickle.dumps(content, protocol=2))
    return path


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared checkpoint is missing")
def test_comirs_equal_those_of_the_original_network(tmp_path) -> None:
    model = import_checkpoint(SHARED / "model_original_layout.pt", ("SHG", "BF"))
    model.save(tmp_path / "m.safetensors")
    model = load_model(tmp_path / "m.safetensors")
    expected = np.load(SHARED / "expected.npz")
    for modality, side in (("SHG", "a"), ("BF", "b")):
        with torch.inference_mode():
            comir = model.networks[modality](torch.from_numpy(expected[side])).numpy()
        np.testing.assert_allclose(comir, expected[f"comir_{side}"], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda f: {"modelA": Bomb(os.system, f"touch {f}"), "modelB": 0}, "posix.system|nt.system"),
        (lambda f: {"modelA": Bomb(eval, f"open({str(f)!r}, 'w')")}, "builtins?__?.eval"),
        (lambda f: [{"deep": ({"in": [Bomb(os.mkdir, str(f))]},)}], "mkdir"),
        (lambda f: Bomb(getattr, Bomb(__import__, "os"), "system"), "getattr"),
    ],
)
def test_malicious_pickles_are_refused_and_nothing_is_run(tmp_path, make, named) -> None:
    fuse = tmp_path / "ran"
    path = archive(tmp_path / "bomb.pt", make(fuse))
    with pytest.raises(InputError, match=f"asks for the global .*({named}).*nothing was run"):
        import_checkpoint(path, ("SHG", "BF"))
    assert not fuse.exists()


@pytest.mark.parametrize("kept", [0, 10, 100])
def test_truncated_archives_are_reported(tmp_path, kept) -> None:
    whole = archive(tmp_path / "whole.pt", {"modelA": 1}).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:kept])
    with pytest.raises(InputError, match="not a released CoMIR checkpoint, or is damaged"):
        import_checkpoint(tmp_path / "cut.pt", ("SHG", "BF"))


def test_an_oversized_archive_is_refused(tmp_path) -> None:
    path = tmp_path / "large.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("checkpoint/data.pkl", pickle.dumps({}))
        with file.open("checkpoint/data/0", "w", force_zip64=True) as entry:
            for _ in range(65):
                entry.write(bytes(2**24))
    with pytest.raises(InputError, match="more than 1024 MiB"):
        import_checkpoint(path, ("SHG", "BF"))


@pytest.mark.parametrize("content", [{"a": 1}, {"modelA": 1, "modelB": 2}, [1, 2]])
def test_other_pickles_are_reported(tmp_path, content) -> None:
    with pytest.raises(InputError, match="not a released CoMIR checkpoint"):
        import_checkpoint(archive(tmp_path / "other.pt", content), ("SHG", "BF"))


def test_bare_tensors_instead_of_modules_are_reported(tmp_path) -> None:
    buffer = io.BytesIO()
    torch.save({"modelA": torch.zeros(4), "modelB": torch.zeros(4)}, buffer)
    raw = buffer.getvalue()
    path = tmp_path / "tensors.pt"
    path.write_bytes(raw)
    with pytest.raises(InputError, match="not a released CoMIR checkpoint"):
        import_checkpoint(path, ("SHG", "BF"))


def test_a_missing_file_and_equal_modalities_are_reported(tmp_path) -> None:
    with pytest.raises(InputError, match="There is no checkpoint"):
        import_checkpoint(tmp_path / "none.pt", ("SHG", "BF"))
    with pytest.raises(InputError, match="name both"):
        import_checkpoint(archive(tmp_path / "x.pt", {}), ("SHG", "SHG"))
