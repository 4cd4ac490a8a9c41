"""Previews go from the worker process to the window: they can be pickled, and unpickling imports no torch."""

import pickle
import subprocess
import sys

import numpy as np

from napari_cmrir.jobs import Progress
from napari_cmrir.representations.training_settings import PairNotes, TrainingFigures, TrainingPreview


def test_reading_a_preview_in_another_process_imports_no_torch():
    comirs = {"BF": np.zeros((1, 4, 4), np.uint8)}
    figures = TrainingFigures(0.5, 10.0, "cpu", 1e6, comirs, retrieval=0.25)
    sent = [
        Progress(0, 1, "pairs", "", PairNotes(("small",))),
        Progress(1, 9, "steps", "", TrainingPreview(figures)),
    ]
    code = (
        "import pickle, sys; pairs, step = pickle.load(sys.stdin.buffer);"
        "print(pairs.preview.notes[0], step.preview.figures.retrieval, 'torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(sent), capture_output=True, check=True
    )
    assert answer.stdout.decode().split() == ["small", "0.25", "False"]
