"""Files behind a URL: any store that fsspec knows.

S3, Google Cloud Storage and Azure go through obstore, which repeats what failed on the way and
takes addresses and credentials from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``,
``AWS_ALLOW_HTTP`` …). What fails is an :class:`OSError` that names the URL, whatever the store; a
:class:`~qwenft_trainer.refused.Refused` where no other try can help.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from qwenft_trainer.refused import named

OBSTORE = ("s3", "gs", "az")


class Store:
    """A folder, or one file, behind a URL. Names are relative to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        with _named(url):
            self._files, self._root = _open(url)

    def names(self) -> tuple[str, ...]:
        """Return all files of the folder, at any depth, sorted; none where nothing is there."""
        with _named(self.url):
            self._files.invalidate_cache()
            found = self._files.find(self._root) if self._files.isdir(self._root) else []
        return tuple(sorted(str(PurePosixPath(path).relative_to(self._root)) for path in found))

    def get(self, name: str, local: Path) -> None:
        """Copy a file here, whole or not at all; ``""`` is the URL's own.

        Raises :class:`FileNotFoundError` where there is none.
        """
        local.parent.mkdir(parents=True, exist_ok=True)
        part = local.with_name(f".{local.name}.part")
        with _named(self._url(name)):
            self._files.get_file(self._path(name), str(part))
        part.replace(local)

    def put(self, local: Path, name: str) -> None:
        """Copy a file there, over what was there; readers see the old one or the new one."""
        with _named(self._url(name)):
            self._files.makedirs(self._files._parent(self._path(name)), exist_ok=True)  # noqa: SLF001 - fsspec's own way to say it
            self._files.put_file(str(local), self._path(name))

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error."""
        for name in names:
            with _named(self._url(name)):
                try:
                    self._files.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    def put_all(
        self, folder: Path, under: str, *, alive: Callable[[], None] = lambda: None
    ) -> None:
        """Make ``under`` hold what ``folder`` holds, and nothing else.

        ``alive`` is called before each file.
        """
        fresh = {
            f"{under}/{path.relative_to(folder).as_posix()}": path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        stale = [name for name in self.names() if name.startswith(f"{under}/")]
        for name, path in fresh.items():
            alive()
            self.put(path, name)
        self.remove(set(stale) - set(fresh))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url


def _open(url: str) -> tuple[Any, str]:
    import fsspec  # noqa: PLC0415 - comes with torch; reading settings needs neither

    scheme = url.partition("://")[0]
    if scheme in OBSTORE:
        from obstore.fsspec import register  # noqa: PLC0415 - only where such a URL is given

        register(scheme)
    files, root = fsspec.core.url_to_fs(url)
    return files, str(root).rstrip("/")


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Name the URL in what a store raises: each has kinds of errors of its own."""
    try:
        yield
    except Exception as error:
        raise named(url, error) from error
