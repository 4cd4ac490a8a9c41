# %% [markdown]
# # Index and search on a cluster
#
# A dask cluster computes the CoMIRs of large collections. Workers need `pip install napari-cmrir`, without
# napari and Qt, and see images and repository under the same paths. The process that calls `build_repository`
# writes the catalogue; the workers only compute. `SearchSettings(scheduler=...)`, or `query --scheduler`, lets them
# search, too.
#
# On a real cluster, start the scheduler and the workers, or use the container of this repository
# (`deploy/Dockerfile`):
#
#     dask scheduler --port 8786
#     dask worker tcp://HOST:8786 --nworkers 8 --nthreads 1
#
# This file starts a cluster of two processes on this machine. Python starts them by importing the file, so that
# all work stands below `if __name__ == "__main__"`.

# %%
from distributed import LocalCluster

import napari_cmrir as cmrir
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder


def main() -> None:
    """Index eight images on two workers, and search."""
    pairs = write_sample_folder("many", range(8), 256)
    images = [pair.paths[1] for pair in pairs]
    model = cmrir.load_model("sample")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        job = cmrir.build_repository(images, model, "BF", "many.cmrir", scheduler=cluster.scheduler_address)
        with cmrir.run(job) as repository:
            print(len(repository), "images indexed by two workers")
            settings = cmrir.SearchSettings(scheduler=cluster.scheduler_address)
            result = cmrir.run(cmrir.query(repository, pairs[5].paths[0], "SHG", settings=settings))
    print("first hit:", result.hits[0].image.rpartition("/")[2])


if __name__ == "__main__":
    main()
