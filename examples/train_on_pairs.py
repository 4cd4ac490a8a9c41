# %% [markdown]
# # Train on aligned pairs
#
# This tutorial trains a model on aligned pairs of SHG and brightfield images, indexes brightfield images, and finds
# an SHG image among them. All images are generated. With your own images, leave out the first cell and name
# your folders in the second.
#
# A pair is two files `<identifier>_<MODALITY>.<ending>`, such as `core7_SHG.tif` and `core7_BF.tif`, that agree
# pixel by pixel.

# %%
import napari_cmrir as cmrir
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

write_sample_folder("pairs", range(6), 256)
for pair in write_sample_folder("slides", range(10, 18), 256):
    pair.paths[0].rename(f"query-{pair.identifier}_SHG.tif")  # the slides folder keeps brightfield only

# %% [markdown]
# `find_pairs` lists the pairs. `train` is a job: a generator that yields its progress. `run` completes it, and
# returns the model. A real training takes the default of 1,500 steps; generated tissue needs fewer.

# %%
from napari_cmrir.representations.training_settings import TrainingSettings

modalities = ("SHG", "BF")
pairs = cmrir.find_pairs(["pairs"], modalities)
settings = TrainingSettings(steps=40, widths=(16, 32, 64), batch_size=12)
model = cmrir.run(cmrir.train(pairs, modalities, settings, output="model.safetensors"))
print(f"{len(pairs)} pairs, {settings.steps} steps, written to model.safetensors")

# %% [markdown]
# The repository holds everything that a search needs. The images stay where they are.

# %%
images = cmrir.find_images(["slides"], "BF")
repository = cmrir.run(cmrir.build_repository(images, model, "BF", "slides.cmrir"))
print(len(repository), "images can be searched")

# %% [markdown]
# A query is an image, or a region of one, of the other modality. This one is a part of an SHG image, turned by
# 20 degrees.

# %%
turned = cmrir.Region((128, 128), 150, 150, 20)
result = cmrir.run(cmrir.query(repository, "query-sample-014_SHG.tif", "SHG", region=turned))
for hit in result.hits[:3]:
    print(hit.rank, hit.image.rpartition("/")[2], f"{hit.score:.2f}", f"confidence {hit.confidence:.0%}")

# %%
import matplotlib.pyplot as plt

PICTURE = "A turned square on an SHG image, and the same place on the first brightfield hit"
best = result.hits[0]

figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
axes[0].imshow(cmrir.read_image("query-sample-014_SHG.tif"), cmap="gray")
axes[0].plot(*turned.corners()[[0, 1, 2, 3, 0], ::-1].T, color="tab:green")
axes[0].set_title("query (SHG)")
axes[1].imshow(cmrir.read_image(best.image))
axes[1].plot(*best.box[[0, 1, 2, 3, 0], ::-1].T, color="tab:green")
axes[1].set_title("first hit (brightfield)")
for each in axes:
    each.set_axis_off()
figure.savefig("train_on_pairs.png", dpi=90)
