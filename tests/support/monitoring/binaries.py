"""Where prometheus and promtool are: on PATH, else unpacked from Debian's package into the cache.

Unpacked, not installed: nothing outside the cache changes and no service starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["binary"]


def binary(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``."""
    found = shutil.which(name)
    return found if found is not None else str(_unpacked() / "usr" / "bin" / name)


def _unpacked() -> Path:
    home = os.environ.get("QWENFT_CACHE", str(Path.home() / ".cache" / "qwenft"))
    folder = Path(home, "prometheus")
    if not (folder / "READY").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "-qq", "prometheus"], cwd=folder, check=True)
        (package,) = folder.glob("prometheus_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
        (folder / "READY").touch()
    return folder
