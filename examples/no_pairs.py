# %% [markdown]
# # Start without pairs
#
# You have two folders of images of different modalities, and do not know which images belong together. The starter
# model, which needs no training, finds the aligned pairs; a model trained on them finds more than the starter.
#
# The first cell generates two such folders: file names say nothing, and every brightfield image is turned.

# %%
from pathlib import Path

import numpy as np
import tifffile

import napari_cmrir as cmrir

for folder in ("laser", "stained"):
    Path(folder).mkdir(exist_ok=True)
for seed in range(3):
    pair = cmrir.sample_pair(seed, 256)
    tifffile.imwrite(f"laser/scan{seed}.tif", pair.shg[..., 0])
    tifffile.imwrite(f"stained/section{9 - seed}.tif", np.rot90(pair.bf, seed).copy(), photometric="rgb")

# %% [markdown]
# `find_aligned_pairs` searches every image of each folder in the other one. Accepted pairs are cut to what both
# images share, and written as `<identifier>_<MODALITY>.tif`; `pairs.csv` lists all candidates with the reasons.

# %%
starter = cmrir.load_model("starter")
found = cmrir.run(cmrir.find_aligned_pairs("laser", "stained", ("SHG", "BF"), starter, "found-pairs"))
for pair in found.accepted:
    print(
        pair.first.name,
        "is",
        pair.second.name,
        f"turned by {round(pair.rotation_degrees)} degrees, confidence {pair.confidence:.1%}",
    )

# %% [markdown]
# Look at the pairs before you train on them: in napari, the dock *1. CoMIR model* shows each one registered
# (source *Two folders, not aligned*). Then train as in the tutorial on aligned pairs:

# %%
from napari_cmrir.representations.training_settings import TrainingSettings

pairs = cmrir.find_pairs(["found-pairs"], ("SHG", "BF"))
settings = TrainingSettings(
    steps=5, widths=(16, 32), patch_size=64, batch_size=8
)  # your images: leave the settings out
model = cmrir.run(cmrir.train(pairs, ("SHG", "BF"), settings, output="own.safetensors"))
print("trained on", len(pairs), "pairs that were found")
