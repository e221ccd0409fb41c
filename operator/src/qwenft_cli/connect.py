"""The one place where the command line talks to Kubernetes.

The client library is imported on the first call, not with this module, so that the bare install
plans and renders without it. Objects travel as plain JSON: the library's classes stay in here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

from yaml import YAMLError

from qwenft_cli.access import Access, Address, Object
from qwenft_cli.failure import BAD_INPUT, FAILED, CliError
from qwenft_operator import names, server_side_apply

__all__ = ["connect"]

_TIMEOUT_SECONDS = 30.0
_FOLLOW_TIMEOUTS = (30.0, 24 * 3600.0)
_MANAGER = "qwenft-cli"
_GROUP = "/apis/qwenft.dev/v1alpha1"
_KUBECONFIG = "Set KUBECONFIG, or give --kubeconfig FILE."
_CONTEXTS = f"{_KUBECONFIG} kubectl config get-contexts lists the contexts."
_ERRORS = {
    401: "Log in to the cluster again.",
    403: "Ask for the role qwenft-edit in this namespace, or name another one with -n.",
    404: "See what there is with: qwenft status -n {}",
    409: "Run the command again.",
    422: "Correct the field and run the command again.",
}


def connect(address: Address) -> Access:
    """Return access to the cluster of ``--kubeconfig``, ``KUBECONFIG``, or the pod this runs in.

    Raises :class:`CliError` when the library is missing or no cluster is configured.
    """
    try:
        # The bare install has no such library, hence imports inside the function.
        from kubernetes import client, config  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415
    except ModuleNotFoundError:
        raise CliError(
            "this command talks to a cluster and needs the kubernetes package",
            next_step="Install it with: pip install 'qwenft[operator]'",
        ) from None
    settings = client.Configuration()
    try:
        namespace = _configure(config, settings, address)
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        raise CliError(
            f"no cluster to talk to ({_reason(address, error)})",
            next_step=_CONTEXTS if address.context else _KUBECONFIG,
        ) from None
    return _Cluster(client.ApiClient(settings), namespace, (client.ApiException, HTTPError))


def _reason(address: Address, error: Exception) -> str:
    if address.kubeconfig and not Path(address.kubeconfig).is_file():
        return f"{address.kubeconfig}: no such file"
    return str(error).strip() or type(error).__name__


def _configure(config: Any, settings: Any, address: Address) -> str:
    """Fill ``settings`` and return the namespace to work in."""
    path, context = address.kubeconfig or None, address.context or None
    named = path or context or os.environ.get("KUBECONFIG")
    if not named and _in_pod(config, settings):
        return address.namespace or _pod_namespace()
    config.load_kube_config(config_file=path, context=context, client_configuration=settings)
    _, active = config.list_kube_config_contexts(config_file=path)
    if context is not None:
        contexts, _ = config.list_kube_config_contexts(config_file=path)
        active = next((entry for entry in contexts if entry["name"] == context), active)
    return address.namespace or str(active["context"].get("namespace") or "default")


def _in_pod(config: Any, settings: Any) -> bool:
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        return False
    return True


def _pod_namespace() -> str:
    with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:  # noqa: PTH123
        return file.read().strip()


class _Cluster:
    """`Access` over HTTPS."""

    def __init__(self, api: Any, namespace: str, silence: tuple[type[Exception], ...]) -> None:
        self._api = api
        self._namespace = namespace
        self._silence = silence

    @property
    def namespace(self) -> str:
        return self._namespace

    def run(self, name: str) -> Object:
        return self._json("GET", self._runs_path(name))

    def runs(self) -> tuple[Object, ...]:
        return self._list(self._runs_path())

    def apply(self, body: Object, *, dry_run: bool = False) -> Object:
        query = {"fieldManager": _MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        path = self._runs_path(body["metadata"]["name"])
        text = server_side_apply.encoded(body)
        return self._json("PATCH", path, query, text, server_side_apply.CONTENT_TYPE)

    def suspend(self, name: str, *, suspended: bool) -> Object:
        patch = {"spec": {"runPolicy": {"suspend": suspended}}}
        query = {"fieldManager": _MANAGER}
        path = self._runs_path(name)
        return self._json("PATCH", path, query, patch, "application/merge-patch+json")

    def pods(self, name: str) -> tuple[Object, ...]:
        selector = {"labelSelector": f"{names.LABEL_RUN}={name}"}
        pods = self._list(f"/api/v1/namespaces/{self._namespace}/pods", selector)
        return tuple(sorted(pods, key=_pod_order))

    def events(self, body: Object) -> tuple[Object, ...]:
        selector = {"fieldSelector": f"involvedObject.uid={body['metadata']['uid']}"}
        events = self._list(f"/api/v1/namespaces/{self._namespace}/events", selector)
        return tuple(sorted(events, key=_event_time))

    def log(self, pod: str, *, follow: bool = False) -> Iterator[str]:
        path = f"/api/v1/namespaces/{self._namespace}/pods/{quote(pod)}/log"
        query = {"container": "trainer", "follow": "true" if follow else "false"}
        timeout = _FOLLOW_TIMEOUTS if follow else _TIMEOUT_SECONDS
        response = self._send("GET", path, query, timeout=timeout)
        rest = b""
        for piece in response.response.stream(65536):
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")

    def nodes(self) -> tuple[Object, ...]:
        return self._list("/api/v1/nodes")

    def node_pods(self) -> tuple[Object, ...]:
        return self._list("/api/v1/pods")

    def config_map(self, namespace: str, name: str) -> Object | None:
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/configmaps/{quote(name, safe='')}"
        response = self._send("GET", path, absent=True)
        return None if response is None else cast("Object", json.loads(response.read()))

    def _runs_path(self, name: str = "") -> str:
        base = f"{_GROUP}/namespaces/{self._namespace}/qwenfinetunes"
        return f"{base}/{quote(name, safe='')}" if name else base

    def _list(self, path: str, query: Mapping[str, str] | None = None) -> tuple[Object, ...]:
        return tuple(self._json("GET", path, query)["items"])

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | bytes | None = None,
        content_type: str = "application/json",
    ) -> Object:
        response = self._send(method, path, query, body, content_type)
        return cast("Object", json.loads(response.read()))

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | bytes | None = None,
        content_type: str = "application/json",
        timeout: float | tuple[float, float] = _TIMEOUT_SECONDS,
        *,
        absent: bool = False,
    ) -> Any:
        """Return the answer; with ``absent`` None where there is no such object."""
        headers = {"Accept": "application/json, */*", "Content-Type": content_type}
        target = f"{path}?{urlencode(query)}" if query else path
        method, url, headers, _, _ = self._api.param_serialize(
            method, target, header_params=headers, auth_settings=["BearerToken"]
        )
        try:
            response = self._api.call_api(method, url, headers, body, _request_timeout=timeout)
        except self._silence as error:
            raise _unreachable(self._api.configuration.host, error) from None
        if absent and response.status == 404:  # noqa: PLR2004 - not found
            return None
        if response.status >= 400:  # noqa: PLR2004 - HTTP's own boundary
            raise _refused(response.status, response.read(), self._namespace)
        return response


def _pod_order(pod: Object) -> tuple[int, int, str]:
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    attempt = labels.get(names.LABEL_ATTEMPT, "0")
    index = labels.get(names.LABEL_INDEX, "0")
    return int(attempt), int(index), str(pod["metadata"]["name"])


def _event_time(event: Object) -> str:
    for key in ("lastTimestamp", "eventTime", "firstTimestamp"):
        if event.get(key):
            return str(event[key])
    return str(event["metadata"].get("creationTimestamp") or "")


def _unreachable(host: str, error: Exception) -> CliError:
    return CliError(
        f"the cluster at {host} does not answer ({type(error).__name__})",
        next_step="Check that it runs and that KUBECONFIG names the right one.",
    )


def _refused(status: int, body: bytes, namespace: str) -> CliError:
    """Return the API server's own sentence, which names the field or the missing right."""
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace").strip() or f"HTTP {status}"
    bad_input = status in (400, 422)
    return CliError(
        message,
        next_step=_ERRORS.get(status, "Look at the cluster's own logs.").format(namespace),
        exit_code=BAD_INPUT if bad_input else FAILED,
    )
