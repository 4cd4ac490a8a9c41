# %% [markdown]
# # Search a batch from Python
#
# Many queries, one table of results. A query that fails does not stop the others. The images are generated.

# %%
from pathlib import Path

import napari_cmrir as cmrir
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

queries = []
for pair in write_sample_folder("collection", range(20, 26), 256):
    shg, _ = pair.paths
    queries.append(shg.rename(f"{pair.identifier}_SHG.tif"))
Path("broken_SHG.tif").write_bytes(b"this is no image")
queries.append(Path("broken_SHG.tif"))

model = cmrir.load_model("sample")
images = cmrir.find_images(["collection"], "BF")
repository = cmrir.run(cmrir.build_repository(images, model, "BF", "collection.cmrir"))

# %% [markdown]
# Whatever cannot be used raises `InputError` with one sentence for the reader.

# %%
answers, failures = [], {}
for path in queries:
    try:
        result = cmrir.run(cmrir.query(repository, path, "SHG"))
    except cmrir.InputError as error:
        failures[path.name] = str(error)
    else:
        answers.append((str(path), result))
        best = result.hits[0]
        sure = "" if result.reliable else " (no reliable match)"
        print(path.name, "->", Path(best.image).name, f"{best.confidence:.0%}{sure}")
print(failures)

# %% [markdown]
# The ending of the file chooses the format: a table, boxes for QuPath, or everything.

# %%
for name in ("hits.csv", "hits.geojson", "hits.json"):
    print(cmrir.write_hits(name, answers), Path(name).stat().st_size > 0)

# %% [markdown]
# A long job can show its progress, and be stopped. Leaving the loop stops it; what is on disk stays complete.

# %%
job = cmrir.query(repository, queries[0], "SHG")
for progress in job:
    print(progress.message)
    break
job.close()
