"""Print the versions installed in this environment as pip constraints."""

from __future__ import annotations

from importlib.metadata import distributions

LEFT_OUT = {"napari-cmrir", "pip", "setuptools"}

print("# Tested together; `make constraints` writes this file from the virtual environment.")
installed = {
    distribution.name.lower().replace("_", "-"): distribution.version for distribution in distributions()
}
for name in sorted(installed.keys() - LEFT_OUT):
    public_version = installed[name].partition("+")[0]  # without the build: "2.13.0+cpu" becomes 2.13.0
    print(f"{name}=={public_version}")
