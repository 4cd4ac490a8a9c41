# %% [markdown]
# # Search whole slides
#
# A slide is read by region, cut into overlapping fields, and every field can be found. This tutorial writes a
# generated slide with a pyramid and with glass around the tissue, indexes it, and finds a small SHG image in it.

# %%
import numpy as np
import tifffile

import napari_cmrir as cmrir

tissue = cmrir.sample_pair(3, (900, 1300))
slide = np.full((1600, 2400, 3), 243, np.uint8)  # glass: one flat, light value
slide[350:1250, 550:1850] = tissue.bf
with tifffile.TiffWriter("slide_BF.ome.tif") as file:
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib"}
    microns = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    file.write(slide, subifds=1, metadata={"axes": "YXS", **microns}, **options)
    file.write(slide[::2, ::2].copy(), subfiletype=1, **options)

image = cmrir.open_image("slide_BF.ome.tif")
print(image.shape, "pixels of", image.pixel_size, "micrometres")
image.close()

# %% [markdown]
# Fields with less than 2 % tissue are left out. `--field-size` on the command line and `RepositorySettings` in
# Python set how large a field is; small fields make small regions easier to find.

# %%
from napari_cmrir.repository.settings import RepositorySettings

model = cmrir.load_model("sample")  # of generated tissue; use your own, or "starter"
settings = RepositorySettings(field_size=512)
repository = cmrir.run(cmrir.build_repository(["slide_BF.ome.tif"], model, "BF", "slide.cmrir", settings))
print(len(repository), "fields can be searched")

# %% [markdown]
# The query is an SHG image of a small part of the tissue. It states the same pixel size; if it stated another
# one, it would be resampled.

# %%
part = cmrir.Region((500, 700), 220, 220, 12)
result = cmrir.run(cmrir.query(repository, tissue.shg, "SHG", region=part, pixel_size=0.5))
best = result.hits[0]
found = best.box.mean(0) - (350, 550)  # in the tissue's own pixels
print(f"found at {found.round()}, cut at [500. 700.], confidence {best.confidence:.0%}")

# %% [markdown]
# `per_field=True` lists every field of a slide as a hit, not only the best field of each slide.

# %%
every = cmrir.SearchSettings(per_field=True, hits=4)
result = cmrir.run(cmrir.query(repository, tissue.shg, "SHG", region=part, pixel_size=0.5, settings=every))
for hit in result.hits:
    y, x = hit.box.mean(0)
    print(f"{hit.rank}: centre ({y:.0f}, {x:.0f}), score {hit.score:.2f}")
