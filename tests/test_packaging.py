"""What is shipped: one manifest, a package that imports in no time, one version number everywhere."""

import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
from npe2 import PluginManifest
from packaging.version import Version

import napari_cmrir
from napari_cmrir.registry import Registry
from napari_cmrir.search.settings import SearchSettings

ROOT = Path(__file__).parent.parent
PACKAGE = Path(napari_cmrir.__file__).parent
HEAVY = {"cv2", "dask", "distributed", "napari", "numpy", "qtpy", "scipy", "sklearn", "torch", "zarr"}


@pytest.fixture(scope="module")
def manifest():
    """The manifest, found by its entry point as napari finds it."""
    return PluginManifest.from_distribution("napari-cmrir")


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, napari_cmrir; dir(napari_cmrir); print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "napari_cmrir" in loaded.split()
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize("name", napari_cmrir.__all__)
def test_every_public_name_leads_to_what_it_names(name):
    assert name in dir(napari_cmrir)
    value = getattr(napari_cmrir, name)
    assert callable(value) or isinstance(value, Registry)
    assert value.__module__.startswith("napari_cmrir.")


@pytest.mark.parametrize(
    "name",
    [
        "Region",
        "SearchSettings",
        "Source",
        "open_image",
        "sample_model",
        "sample_pair",
        "train",
        "write_hits",
    ],
)
def test_what_scripts_and_extensions_use_has_an_example(name):
    assert ">>>" in getattr(napari_cmrir, name).__doc__


def test_no_public_name_is_hidden_by_a_subpackage_of_that_name():
    submodules = {module.name for module in pkgutil.iter_modules(napari_cmrir.__path__)}
    assert {"search", "jobs"} <= submodules
    assert not submodules & set(napari_cmrir.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nosuchname"):
        napari_cmrir.nosuchname  # noqa: B018


def test_the_package_carries_the_manifest_of_the_top_level():
    assert (PACKAGE / "napari.yaml").samefile(ROOT / "napari.yaml")


def test_napari_is_offered_three_widgets_and_four_samples(manifest):
    widgets = [widget.display_name for widget in manifest.contributions.widgets]
    samples = {sample.key: sample.display_name for sample in manifest.contributions.sample_data}
    assert manifest.display_name == "CoMIR Image Retrieval"
    assert widgets == ["1. CoMIR model", "2. Index images", "3. Find region"]
    assert samples == {
        "tissue-pair": "Tissue, one brightfield and SHG pair (generated)",
        "tissue-folder": "Tissue, twelve brightfield images to index (generated)",
        "ready-search": "Ready to search, an SHG image and an indexed folder (generated)",
        "published-pair": "Real tissue, the paper's pairs of SHG and brightfield (a download)",
    }


def test_every_command_of_the_manifest_can_be_imported(manifest):
    manifest.validate_imports()


@pytest.mark.parametrize("name", ["effort", "scheduler", "matcher", "match_on"])
def test_a_preference_takes_what_the_setting_of_a_search_takes(manifest, name):
    preference = manifest.contributions.configurations["search"].properties[name]
    setting = SearchSettings.model_json_schema()["properties"][name]
    assert (preference.default, preference.enum) == (setting["default"], setting.get("enum"))


def test_the_version_of_a_release_is_that_of_the_changelog_and_the_citation():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)[1]
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [newest]
    installed = napari_cmrir.__version__
    assert installed == metadata.version("napari-cmrir")
    assert installed == newest or Version(installed).is_devrelease


def test_the_hub_finds_all_that_it_shows(manifest):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"Documentation", "Source Code", "Bug Tracker", "User Support"} <= set(project["urls"])
    assert project["license"] == "BSD-3-Clause"
    assert "Framework :: napari" in project["classifiers"]
    assert manifest.visibility == "public"
    package, _, name = manifest.icon.partition(":")
    assert resources.files(package).joinpath(name).read_text(encoding="utf-8").startswith("<svg")
    pictures = re.findall(r"!\[[^\]]+\]\((\S+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert pictures
    assert all(address.startswith("https://") for address in pictures)


def test_the_constraints_hold_on_any_machine():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+", pin) for pin in pins)
