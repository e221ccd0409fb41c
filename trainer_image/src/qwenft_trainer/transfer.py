"""What comes from URLs before training, and goes to one after it."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch.distributed as dist

from qwenft_plan.places import is_url
from qwenft_trainer.by_node import on_each_node
from qwenft_trainer.checkpoint import from_rank_0
from qwenft_trainer.checkpoint_files import write_json
from qwenft_trainer.failure import DatasetInvalid, OutputInvalid, TrainerError
from qwenft_trainer.hub import upload
from qwenft_trainer.refused import Refused
from qwenft_trainer.remote import Store
from qwenft_trainer.settings import Settings
from qwenft_trainer.watchdog import FILES, Watchdog

RESULT = "result.json"
TRANSIT = ".shards"
FOLDERS = ("model", "adapter", "best-model", "best-model-adapter")


def dataset_path(settings: Settings) -> Path:
    """Return where the dataset lies on this node, copying it here from a URL. Collective.

    Raises :class:`DatasetInvalid` where nothing is there or nobody may read it, and
    :class:`TrainerError` where the store does not answer.
    """
    url = settings.spec.dataset.path
    if not is_url(url):
        return Path(url)
    folder = settings.scratch / "input"
    on_each_node(lambda: _fetch(url, folder))
    return folder / PurePosixPath(url).name


def _fetch(url: str, folder: Path) -> None:
    try:
        store = Store(url)
        names = store.names()
        target = folder / PurePosixPath(url).name
        for name in names:
            store.get(name, target / name)
        if not names:
            store.get("", target)
    except (FileNotFoundError, Refused) as error:
        raise DatasetInvalid(f"spec.dataset.path: {error}") from error
    except OSError as error:
        raise TrainerError(f"spec.dataset.path: {error}") from error


def gather_shards(store: Store, folder: Path) -> None:
    """Bring all nodes' shards of a model into rank 0's ``folder``, by way of the store. Collective.

    Where nodes share no directory, only the store reaches from one to the other. Leaves nothing
    there; other nodes' folders are removed.
    """
    first = dist.get_rank() == 0
    on_each_node(lambda: None if first else store.put_all(folder, f"{TRANSIT}/{dist.get_rank()}"))
    from_rank_0(lambda: _take(store, folder))
    on_each_node(lambda: None if first else shutil.rmtree(folder.parent, ignore_errors=True))


def _take(store: Store, folder: Path) -> None:
    sent = [name for name in store.names() if name.startswith(f"{TRANSIT}/")]
    for name in sent:
        store.get(name, folder / PurePosixPath(name).name)
    store.remove(sent)


def deliver(settings: Settings, result: Mapping[str, Any], watchdog: Watchdog) -> Mapping[str, str]:
    """Write ``result.json``, send all of the result where it is to go; return what is to be told.

    At the output's URL ``result.json`` comes last: once it is there, all is. Raises
    :class:`TrainerError` if the output cannot be sent there; the hub fails nothing.
    """

    def alive() -> None:
        watchdog.beat("sending the result", patience=FILES)

    write_json(settings.output / RESULT, result)
    _send_folders(settings, alive)
    spec, place = settings.spec, settings.result_directory
    told = upload(spec.output.hub, place, name=settings.name, alive=alive)
    if told:
        write_json(settings.output / RESULT, {**result, **told})
    if settings.remote is not None:
        _sent(lambda store: store.put(settings.output / RESULT, RESULT), settings.remote)
    return told


def _send_folders(settings: Settings, alive: Callable[[], None]) -> None:
    for name in FOLDERS:
        folder = settings.output / name
        if settings.remote is not None and folder.is_dir():
            _sent(partial(_put_all, folder, alive), settings.remote)


def _put_all(folder: Path, alive: Callable[[], None], store: Store) -> None:
    store.put_all(folder, folder.name, alive=alive)


def _sent(action: Callable[[Store], None], store: Store) -> None:
    try:
        action(store)
    except OSError as error:
        kind = OutputInvalid if isinstance(error, Refused) else TrainerError
        raise kind(f"the result cannot be sent: {error}") from error


def send_logs(settings: Settings) -> None:
    """Copy what trackers wrote, once they are closed; a run does not fail over it."""
    store = settings.remote
    if store is None or not settings.logs.is_dir():
        return
    try:
        store.put_all(settings.logs, settings.logs.name)
    except OSError as error:
        print(f"the trackers' files were not sent: {error}", flush=True)  # noqa: T201 - the log of the pod
