"""Install Debian packages as root; otherwise print which are missing and how to install them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

__all__ = ["require"]


def require(packages: list[str], purpose: str) -> None:
    """Install missing packages with apt as root, or exit with a sentence that names them.

    Parameters
    ----------
    packages : list of str
        Debian's names of the missing packages; nothing happens when there are none.
    purpose : str
        What they are needed for, to finish the sentence "... needs".

    Raises
    ------
    SystemExit
        Where the packages can't be installed from here.
    """
    if not packages:
        return
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        sys.exit(
            f"{purpose} needs what Debian calls {names}; install your system's packages of the same content."
        )
    if os.geteuid() != 0:
        sys.exit(
            f"{purpose} needs packages that are missing; install them with: sudo apt-get install {names}"
        )
    print(f"Installing system packages: {names}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
    subprocess.run([*apt, "update"], env=environment, check=False)
    install = subprocess.run([*apt, "install", "-y", "--no-install-recommends", *packages], env=environment)
    if install.returncode != 0:
        sys.exit(f"{purpose} needs {names}, and apt-get could not install them; its message is above.")
