import numpy as np
import pytest

from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.representations.training_settings import TrainingSettings


@pytest.fixture(scope="session")
def tissue_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """SHG and BF images of generated tissue, aligned."""
    return [(pair.shg, pair.bf) for pair in (sample_pair(seed, 160) for seed in range(3))]


@pytest.fixture(scope="session")
def small_settings() -> TrainingSettings:
    return TrainingSettings(widths=(8, 16), steps=6, patch_size=64, batch_size=6)
