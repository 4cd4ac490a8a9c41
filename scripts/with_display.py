"""Run a command that needs a display, on a virtual one if there is none: with_display.py COMMAND..."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

import system_packages

QT_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
}
VIRTUAL_DISPLAY = {"Xvfb": "xvfb", "xvfb-run": "xvfb", "xauth": "xauth"}


def can_load(library: str) -> bool:
    """Whether the dynamic loader finds a library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def any_file(*patterns: str) -> bool:
    """Whether a file on this machine matches one of the patterns, given from the root."""
    return any(next(Path("/").glob(pattern), None) is not None for pattern in patterns)


def missing_packages(virtual: bool) -> list[str]:
    """Names of the Debian packages for missing libraries of Qt and OpenGL on X11."""
    missing = [package for library, package in QT_LIBRARIES.items() if not can_load(library)]
    if virtual:
        missing += [package for command, package in VIRTUAL_DISPLAY.items() if shutil.which(command) is None]
        if not any_file("usr/lib*/dri/swrast_dri.so", "usr/lib/*/dri/swrast_dri.so"):
            missing.append("libgl1-mesa-dri")
    if not any_file("usr/share/fonts/**/*.[to]tf", "usr/local/share/fonts/**/*.[to]tf"):
        missing += ["fontconfig", "fonts-dejavu-core"]
    return sorted(set(missing))


def main() -> None:
    """Replace this process by the command, or by xvfb-run with the command."""
    command = sys.argv[1:]
    if sys.platform == "linux":
        virtual = not os.environ.get("DISPLAY")
        system_packages.require(missing_packages(virtual), "A napari viewer")
        if virtual:
            command = ["xvfb-run", "--auto-servernum", "--server-args=-screen 0 1920x1200x24", *command]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
