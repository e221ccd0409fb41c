"""kopf's side: its events wake the queue, and nothing else happens here.

No index, timer, daemon or change handler: they bring finalizers, annotations and ghosts of deleted
objects. The reconciliation reads everything anew anyway. The only module that imports kopf, and the
one that keeps it light: ten thousand pods are watched.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import aiohttp
import kopf

from qwenft_operator import logs, names
from qwenft_operator.app import App, Options
from qwenft_operator.cluster import PLAIN
from qwenft_operator.watches import Answer, metadata_of_pods

__all__: list[str] = []

_CHATTY = ("kopf.objects", "kopf.activities.probe", "aiohttp.access")
_REQUEST_TIMEOUT = 30
_SERVER_TIMEOUT = 300  # the API takes whole seconds only
_CHUNK = 500
"""Objects of one answer while kopf lists: of thousands at once it would hold all in memory."""
_IDLE_SECONDS = 0.2
"""After so long without events kopf lets an object's task go, and with it the object."""


class NoEssence(kopf.DiffBaseStorage):
    """Compares nothing: kopf would copy each object three times an event, for handlers of changes.

    There are none here, and that was a third of the operator's work.
    """

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:  # noqa: ARG002 - kopf's names
        """Return nothing to compare."""
        return {}

    def fetch(self, *, body: Any) -> Any:  # noqa: ARG002 - kopf's name
        """Return nothing that was compared before."""
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Keep nothing."""


@kopf.on.login()
async def login(**kwargs: Any) -> kopf.AiohttpSession | None:
    """Use the ServiceAccount, outside a cluster the kubeconfig."""
    info = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
    if info is None:
        return None
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=dict(info.as_http_headers()) | PLAIN,
        proxy=info.proxy_url,
        trust_env=info.trust_env,
        middlewares=(metadata_of_pods,),
        response_class=Answer,
    )
    return kopf.AiohttpSession(
        server=info.server,
        default_namespace=info.default_namespace,
        priority=info.priority,
        expiration=info.expiration,
        aiohttp_session=session,
    )


@kopf.on.startup()
async def startup(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure the watches and start the application."""
    logs.install()
    # One line a wake-up or probe says nothing: the reconciliation logs what it does.
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.request_timeout = _REQUEST_TIMEOUT
    settings.watching.server_timeout = _SERVER_TIMEOUT
    settings.watching.client_timeout = _SERVER_TIMEOUT + _REQUEST_TIMEOUT
    settings.watching.chunk_size = _CHUNK
    settings.queueing.idle_timeout = _IDLE_SECONDS
    settings.persistence.diffbase_storage = NoEssence()
    ours = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
    settings.watching.label_selectors["batch/v1", "jobs"] = ours
    settings.watching.label_selectors["v1", "pods"] = ours
    memo.app = await App.start(Options.from_environment(os.environ))


@kopf.on.cleanup()
async def cleanup(memo: kopf.Memo, **_: Any) -> None:
    """Stop the application."""
    app: App | None = memo.get("app")
    if app is not None:
        await app.stop()


@kopf.on.probe(id="app")
def probe(memo: kopf.Memo, **_: Any) -> str:
    """Fail the liveness probe when the application, not only the event loop, is in trouble."""
    trouble = str(memo.app.trouble())
    if trouble:
        raise kopf.PermanentError(trouble)
    return "ok"


@kopf.on.event(names.GROUP, names.VERSION, names.PLURAL)
async def on_run(memo: kopf.Memo, body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002 - kopf's name
    """Wake the run."""
    memo.app.run_changed(body, gone=type == "DELETED")


@kopf.on.event("batch", "v1", "jobs", labels={names.LABEL_MANAGED_BY: names.FIELD_MANAGER})
async def on_job(memo: kopf.Memo, body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002 - kopf's name
    """Wake the Job's run, and those that wait for what it may have freed."""
    memo.app.job_changed(body, gone=type == "DELETED")


@kopf.on.event("", "v1", "pods", labels={names.LABEL_MANAGED_BY: names.FIELD_MANAGER})
async def on_pod(memo: kopf.Memo, body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002 - kopf's name
    """Wake the pod's run, and those that wait for what its end frees."""
    memo.app.pod_changed(body, gone=type == "DELETED")


@kopf.on.event("", "v1", "nodes")
async def on_node(memo: kopf.Memo, body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002 - kopf's name
    """Wake the runs that wait for capacity, if the node's offer has changed."""
    memo.app.node_changed(body, gone=type == "DELETED")
