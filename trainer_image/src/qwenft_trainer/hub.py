"""The finished model, or its adapters, to the Hugging Face hub, where that was asked for.

By then the result lies safe in the output. So nothing that happens here ends a run badly: what went
wrong is told with the result. ``HF_TOKEN`` and ``HF_ENDPOINT`` are the client's own variables.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import HfApi

from qwenft_plan.spec import Hub

LONGEST_SECONDS = 6 * 3600.0
"""After so long an upload is given up: the nodes are paid for meanwhile."""
SIGN_SECONDS = 30.0
_LONGEST_MESSAGE = 300


def upload(
    hub: Hub | None,
    folder: Path,
    *,
    name: str,
    alive: Callable[[], None],
    patience: float = LONGEST_SECONDS,
) -> Mapping[str, str]:
    """Send ``folder`` to the repository; return what to tell of it, nothing where none is named.

    ``name`` is the run's, for the commit. ``alive`` is called every half minute. Raises nothing.
    """
    if hub is None:
        return {}
    told: dict[str, str] = {}
    work = threading.Thread(target=_send, args=(hub, folder, name, told), daemon=True, name="hub")
    alive()
    work.start()
    waited = 0.0
    while work.is_alive() and waited < patience:
        work.join(min(SIGN_SECONDS, patience - waited))
        alive()
        waited += SIGN_SECONDS
    # A copy: a thread that was given up may still come to its end.
    return dict(told) or {"hubError": f"not done after {patience:.0f} s"}


def _send(hub: Hub, folder: Path, name: str, told: dict[str, str]) -> None:
    try:
        client = HfApi()
        place = client.create_repo(hub.repository, private=hub.private, exist_ok=True)
        client.upload_folder(
            repo_id=hub.repository, folder_path=folder, commit_message=f"Fine-tuned by {name}"
        )
        told["hubUrl"] = str(place)
    except Exception as error:  # noqa: BLE001 - the client's kinds, the network's, bad tokens
        lines = str(error).strip().splitlines() or [type(error).__name__]
        told["hubError"] = lines[0][:_LONGEST_MESSAGE]
