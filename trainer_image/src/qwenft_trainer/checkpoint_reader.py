"""Reading a checkpoint without running what somebody may have put into it.

torch's distributed checkpoint keeps its table of contents, ``.metadata``, as a pickle, and a pickle
may call anything while it is read. The manifest's digests show damage; whoever can write to the
volume can renew them. So the table is read by an unpickler that knows the few classes of which such
a table is made, and refuses everything else. Tensors are read with ``weights_only``.
"""

import io
import pickle
import pickletools
from pathlib import Path, PosixPath
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    StorageMeta,
    TensorStorageMetadata,
)

from qwenft_trainer.checkpoint_files import is_plain

CONTENTS = ".metadata"
STORED = (BytesStorageMetadata, TensorStorageMetadata)
_METADATA = "torch.distributed.checkpoint.metadata"
_PATH_OF_3_13 = ("pathlib._local", "PosixPath")
"""As Python 3.13 names the class that other versions find in ``pathlib``."""
_KNOWN = frozenset(
    {
        ("pathlib", "PosixPath"),
        ("torch", "Size"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        *(
            (_METADATA, name)
            for name in (
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ),
    }
)


class _Unpickler(pickle.Unpickler):  # it is what keeps the pickle from calling anything
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == _PATH_OF_3_13:
            return PosixPath
        if (module, name) in _KNOWN:
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs")


class GuardedReader(FileSystemReader):
    """torch's reader of a checkpoint's directory, with a guarded table of contents."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory))
        self._directory = directory

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        """Read the table of contents; raises ``pickle.UnpicklingError`` for anything else."""
        contents = read_contents(self._directory)
        if contents.storage_meta is None:
            contents.storage_meta = StorageMeta()
        contents.storage_meta.load_id = self.load_id
        return contents


def read_contents(directory: Path) -> Metadata:
    """Read ``.metadata``; raises ``pickle.UnpicklingError``, or OSError where it is missing."""
    try:
        content = (directory / CONTENTS).read_bytes()
        _check_sizes(content)
        return _checked(_Unpickler(io.BytesIO(content)).load())
    except (OSError, pickle.UnpicklingError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


def _checked(found: object) -> Metadata:
    """Return the table; refuse what is none, and one that points out of its directory."""
    if not isinstance(found, Metadata):
        raise pickle.UnpicklingError(f"it is a {type(found).__name__}")
    known, places = found.state_dict_metadata, found.storage_data
    if not isinstance(known, dict) or not isinstance(places, dict):
        raise pickle.UnpicklingError("it lists nothing")
    if not isinstance(found.storage_meta, StorageMeta | None):
        raise pickle.UnpicklingError("it was not written by torch")
    if strange := [name for name, each in known.items() if not isinstance(each, STORED)]:
        raise pickle.UnpicklingError(f"{strange[0]!r} is no entry of such a table")
    for place in places.values():
        file = place.relative_path
        if not is_plain(file):
            raise pickle.UnpicklingError(f"it points to {file!r}, out of the checkpoint")
    return found


def _check_sizes(content: bytes) -> None:
    """Refuse a pickle that asks for more memory than it has bytes: one flipped bit may do it.

    The unpickler keeps a list as long as the largest index that is put into it.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name.endswith("PUT") and int(str(argument)) > len(content):
            raise pickle.UnpicklingError(f"it asks for {argument} places")


def suspicious(directory: Path) -> str | None:
    """Return what is wrong with a checkpoint's table of contents, or None."""
    try:
        read_contents(directory)
    except (OSError, pickle.UnpicklingError) as error:
        return f"{CONTENTS} is no table of contents ({error})"
    return None
