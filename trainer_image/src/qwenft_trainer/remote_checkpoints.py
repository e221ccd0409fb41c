"""Checkpoints behind a URL: this node's directory is a copy of what lies there.

An object store renames nothing, and writes a file whole or not at all. So a checkpoint is there
once its manifest is, which is sent last; what has no manifest the next attempt removes.
"""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qwenft_trainer.checkpoint_files import MANIFEST
from qwenft_trainer.remote import Store

_NAME = re.compile(r"step-\d+-attempt-(\d+)")
_FOLDER = "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """The folder ``checkpoints`` of a store, and this node's copy of it.

    Only manifests stay here; the rest of a checkpoint is here while it is written or read. What
    fails raises :class:`OSError`.
    """

    store: Store
    directory: Path

    @property
    def url(self) -> str:
        """Where the checkpoints are."""
        return f"{self.store.url}/{_FOLDER}"

    def look(self, *, attempt: int) -> None:
        """Fetch all manifests; remove there what an earlier attempt than this began and left."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        names = self._names()
        whole = {name.split("/")[0] for name in names if name.endswith(f"/{MANIFEST}")}
        for name in filter(_NAME.fullmatch, whole):  # a name like ".." would lead elsewhere
            self.fetch(f"{name}/{MANIFEST}")
        self.remove(
            {
                folder
                for folder in {name.split("/")[0] for name in names if "/" in name} - whole
                if (match := _NAME.fullmatch(folder)) and int(match[1]) < attempt
            }
        )

    def fetch(self, name: str) -> None:
        """Copy a file here; where there is none, there is none here either."""
        try:
            self.store.get(f"{_FOLDER}/{name}", self.directory / name)
        except FileNotFoundError:
            (self.directory / name).unlink(missing_ok=True)

    def fetch_all(self, name: str, files: Iterable[str]) -> None:
        """Copy the files of the checkpoint ``name`` here."""
        for file in files:
            self.fetch(f"{name}/{file}")

    def send(self, folder: Path, files: Iterable[str], name: str) -> None:
        """Copy files of ``folder`` there, in order, as those of the checkpoint ``name``."""
        for file in files:
            self.store.put(folder / file, f"{_FOLDER}/{name}/{file}")

    def send_one(self, name: str) -> None:
        """Copy one of this node's files there."""
        self.store.put(self.directory / name, f"{_FOLDER}/{name}")

    def remove(self, names: Iterable[str]) -> None:
        """Remove checkpoints there, their manifests first."""
        for name in names:
            files = [file for file in self._names() if file.startswith(f"{name}/")]
            files.sort(key=lambda file: not file.endswith(f"/{MANIFEST}"))
            self.store.remove(f"{_FOLDER}/{file}" for file in files)

    def thin(self) -> None:
        """Remove all but manifests from this node, whose disk need hold only one checkpoint."""
        for folder in self.directory.glob("*step-*"):
            for path in folder.iterdir():
                if path.name != MANIFEST:
                    path.unlink(missing_ok=True)
            if not (folder / MANIFEST).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _names(self) -> list[str]:
        """Return all files there, relative to the folder."""
        return [
            name.removeprefix(f"{_FOLDER}/")
            for name in self.store.names()
            if name.startswith(f"{_FOLDER}/")
        ]
