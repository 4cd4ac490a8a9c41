"""Make the project's virtual environment: python3.11 environment.py FOLDER QT_BINDING."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import system_packages

ROOT = Path(__file__).resolve().parent.parent


def create(folder: Path) -> None:
    """Make the virtual environment, unless a working one exists."""
    python = folder / "bin" / "python"
    if (
        python.exists()
        and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    ):
        return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        package = f"python3.{sys.version_info.minor}-venv"
        system_packages.require([package], f"A virtual environment for {sys.executable}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)


def install(folder: Path, binding: str) -> None:
    """Install the package (editable), a Qt binding and the developers' tools, in the tested versions."""
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, "pip>=25.1"], check=True)  # the first version that reads dependency groups
    constraints = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run(
        [*pip, *constraints, "--editable", f".[{binding}]", "--group", "dev"], check=True, cwd=ROOT
    )


def main() -> None:
    """Make the environment of the arguments."""
    folder, binding = Path(sys.argv[1]).absolute(), sys.argv[2]
    try:
        create(folder)
        install(folder, binding)
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"The virtual environment {folder} could not be made: pip's or venv's message is above ({error})."
        )


if __name__ == "__main__":
    main()
