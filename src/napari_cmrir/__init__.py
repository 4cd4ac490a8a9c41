"""Cross-modality sub-image retrieval with contrastive multimodal image representations (CoMIR).

Breznik, Wetzer, Lindblad & Sladoje, "Cross-modality sub-image retrieval using contrastive multimodal
image representations", Scientific Reports 14, 18798 (2024), doi:10.1038/s41598-024-68800-1.

Each public name is imported from its room when it is first used, so that importing the package, and
with it the plugin's discovery and ``napari-cmrir --help``, loads neither torch nor OpenCV nor napari.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.descriptors.features import DESCRIPTORS
    from napari_cmrir.errors import InputError
    from napari_cmrir.evaluation.protocol import evaluate
    from napari_cmrir.evaluation.retrievers.base import RETRIEVERS
    from napari_cmrir.images.discovery import find_pairs
    from napari_cmrir.images.formats.base import IMAGE_FORMATS
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.images.readers import find_images, open_image, read_image
    from napari_cmrir.images.synthetic.sample_pairs import sample_pair
    from napari_cmrir.jobs import Progress, run
    from napari_cmrir.pairing.adapt import adapt_model
    from napari_cmrir.pairing.find import find_aligned_pairs
    from napari_cmrir.pairing.landmarks import pair_from_landmarks
    from napari_cmrir.repository.build import build_index, build_repository
    from napari_cmrir.repository.field_indexes import FIELD_INDEXES
    from napari_cmrir.repository.maintenance import (
        compact_repository,
        prune_repository,
        verify_repository,
    )
    from napari_cmrir.repository.repository import open_repository
    from napari_cmrir.repository.sources import Source
    from napari_cmrir.representations.base import REPRESENTATIONS, load_model, represent, train
    from napari_cmrir.representations.model_file import sample_model
    from napari_cmrir.search.hits import write_hits
    from napari_cmrir.search.matchers import MATCHERS
    from napari_cmrir.search.query import search as query
    from napari_cmrir.search.query import search_many as query_many
    from napari_cmrir.search.rerankers import RERANKERS
    from napari_cmrir.search.settings import SearchSettings

__version__: str

__all__ = [
    "DESCRIPTORS",
    "FIELD_INDEXES",
    "IMAGE_FORMATS",
    "MATCHERS",
    "REPRESENTATIONS",
    "RERANKERS",
    "RETRIEVERS",
    "InputError",
    "Progress",
    "Region",
    "SearchSettings",
    "Source",
    "adapt_model",
    "build_index",
    "build_repository",
    "compact_repository",
    "evaluate",
    "find_aligned_pairs",
    "find_images",
    "find_pairs",
    "load_model",
    "open_image",
    "open_repository",
    "pair_from_landmarks",
    "prune_repository",
    "query",
    "query_many",
    "read_image",
    "represent",
    "run",
    "sample_model",
    "sample_pair",
    "train",
    "verify_repository",
    "write_hits",
]

_HOMES = {
    "DESCRIPTORS": "bag_of_words.descriptors.features:DESCRIPTORS",
    "FIELD_INDEXES": "repository.field_indexes:FIELD_INDEXES",
    "IMAGE_FORMATS": "images.formats.base:IMAGE_FORMATS",
    "InputError": "errors:InputError",
    "MATCHERS": "search.matchers:MATCHERS",
    "Progress": "jobs:Progress",
    "REPRESENTATIONS": "representations.base:REPRESENTATIONS",
    "RERANKERS": "search.rerankers:RERANKERS",
    "RETRIEVERS": "evaluation.retrievers.base:RETRIEVERS",
    "Region": "images.geometry:Region",
    "SearchSettings": "search.settings:SearchSettings",
    "Source": "repository.sources:Source",
    "adapt_model": "pairing.adapt:adapt_model",
    "build_index": "repository.build:build_index",
    "build_repository": "repository.build:build_repository",
    "compact_repository": "repository.maintenance:compact_repository",
    "evaluate": "evaluation.protocol:evaluate",
    "find_aligned_pairs": "pairing.find:find_aligned_pairs",
    "find_images": "images.readers:find_images",
    "find_pairs": "images.discovery:find_pairs",
    "load_model": "representations.base:load_model",
    "open_image": "images.readers:open_image",
    "open_repository": "repository.repository:open_repository",
    "pair_from_landmarks": "pairing.landmarks:pair_from_landmarks",
    "prune_repository": "repository.maintenance:prune_repository",
    # not "search": that name is the package's, once anything in it has been imported
    "query": "search.query:search",
    "query_many": "search.query:search_many",
    "read_image": "images.readers:read_image",
    "represent": "representations.base:represent",
    "run": "jobs:run",
    "sample_model": "representations.model_file:sample_model",
    "sample_pair": "images.synthetic.sample_pairs:sample_pair",
    "train": "representations.base:train",
    "verify_repository": "repository.maintenance:verify_repository",
    "write_hits": "search.hits:write_hits",
}


def _installed_version() -> str:
    """Return the version that was installed: that of the git tag, or of the commits since then."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("napari-cmrir")
    except PackageNotFoundError:  # a folder of sources on the path
        return "0+unknown"


if not TYPE_CHECKING:  # a type checker shall still report a name that is not there

    def __getattr__(name):
        if name == "__version__":
            return _installed_version()
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _HOMES[name].partition(":")
        value = getattr(import_module(f"{__name__}.{module}"), attribute)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
