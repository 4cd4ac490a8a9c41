"""Check an installed wheel: napari finds the plugin, and the command line starts."""

from __future__ import annotations

import subprocess
import sysconfig
from importlib.resources import files
from pathlib import Path

from npe2 import PluginManager

WIDGETS = ["1. CoMIR model", "2. Index images", "3. Find region"]
SAMPLES = ["tissue-pair", "tissue-folder", "ready-search", "published-pair"]


def main() -> None:
    """Check the plugin's contributions and the command line, and print them."""
    manifest_file = Path(str(files("napari_cmrir") / "napari.yaml"))
    site_packages = Path(sysconfig.get_path("purelib"))
    assert manifest_file.is_relative_to(site_packages), f"{manifest_file} is not the installed one"
    assert manifest_file.is_file(), f"{manifest_file} is missing"
    assert not manifest_file.is_symlink(), f"{manifest_file} is a link"

    for name in ("sample", "starter"):
        path = files("napari_cmrir") / "data" / f"{name}.safetensors"
        assert path.is_file(), f"the {name} model is missing"

    manager = PluginManager.instance()
    manager.discover()
    contributions = manager.get_manifest("napari-cmrir").contributions
    widgets = [widget.display_name for widget in contributions.widgets or ()]
    samples = [sample.key for sample in contributions.sample_data or ()]
    assert widgets == WIDGETS, widgets
    assert samples == SAMPLES, samples

    command = Path(sysconfig.get_path("scripts")) / "napari-cmrir"
    usage = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    for verb in ("train", "index", "query", "represent", "info", "demo"):
        assert verb in usage, f"{verb} is missing in {usage}"
    print(f"npe2 sees the widgets {widgets} and the sample data {samples}; the command line answers.")


if __name__ == "__main__":
    main()
