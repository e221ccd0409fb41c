"""The real cluster. The only module that imports the Kubernetes client.

It speaks in plain dictionaries: the client is used for what it does best, credentials and
connections, and its typed models (most of its weight) stay unloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from kubernetes.aio import config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from qwenft_operator import names, server_side_apply
from qwenft_operator.port import Conflict, Identity, Refused, Unavailable

__all__ = ["PLAIN", "ApiCluster"]

Body = Mapping[str, Any]
Shape = TypeVar("Shape")

_TIMEOUT = aiohttp.ClientTimeout(total=30)
_PAGE = 500
_KINDS = {
    names.KIND: (f"/apis/{names.API_VERSION}", names.PLURAL),
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Service": ("/api/v1", "services"),
    "Event": ("/api/v1", "events"),
    "Node": ("/api/v1", "nodes"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "PriorityClass": ("/apis/scheduling.k8s.io/v1", "priorityclasses"),
    "TokenReview": ("/apis/authentication.k8s.io/v1", "tokenreviews"),
}
PLAIN = {"Accept-Encoding": "identity"}
"""Headers of a request whose answer is not to be compressed.

The network inside a cluster is fast, and gzip takes a processor's time on both sides.
"""
_OK, _NOT_FOUND, _CONFLICT, _GONE = 200, 404, 409, 410
_PASSING = (429, 500, 502, 503, 504)
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_ACCOUNT = "system:serviceaccount:"


class _Answer(Exception):  # noqa: N818 - any answer but success
    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ApiCluster:
    """The :class:`~qwenft_operator.port.Cluster` behind an apiserver."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._newest: dict[str, int] = {}
        """Kind → the newest version of the store that an answer has shown."""
        self._listener: Callable[[str, int | None], None] = lambda _method, _status: None

    def tell(self, listener: Callable[[str, int | None], None]) -> None:
        """Call ``listener`` with method and status of every answer; None where there was none."""
        self._listener = listener

    @classmethod
    async def connect(cls) -> ApiCluster:
        """Connect with the pod's ServiceAccount, outside a cluster with the kubeconfig.

        What a user's shell says of proxies and of passwords by host (~/.netrc) is not for the
        apiserver, nor do kopf's watches heed it: a proxy is the kubeconfig's ``proxy-url``. Reading
        both for every request, in a thread, was a sixth of the operator's work.
        """
        configuration = Configuration(client_session_kwargs={"trust_env": False})
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            file = os.environ.get("KUBECONFIG") or None
            await config.load_kube_config(file, client_configuration=configuration)
        return cls(ApiClient(configuration))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """Return one object, None if there is none."""
        try:
            return await self._call("GET", _path(kind, namespace, name))
        except _Answer as answer:
            if answer.code == _NOT_FOUND:
                return None
            raise _translated(f"{kind} {name}", answer) from None

    async def list(
        self,
        kind: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        shape: type[Any] = dict,
    ) -> tuple[Body, ...]:
        """Return the objects of a kind, read page by page."""
        query: dict[str, str] = {"limit": str(_PAGE)}
        query |= {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        found: list[Body] = []
        known = self._newest.get(kind, 0)
        while True:
            page = await self._page(kind, namespace, query, shape)
            if page is None:  # the list grew old between two pages: start over
                found.clear()
                query.pop("continue", None)
                continue
            self._check_age(kind, page, known)
            found.extend(page.get("items") or ())
            following = page["metadata"].get("continue")
            if not following:
                return tuple(found)
            query["continue"] = following

    def _check_age(self, kind: str, page: Body, known: int) -> None:
        """Refuse a list that is older than what was known when it was asked for.

        A cache between the operator and the store, or an apiserver that has lost touch with it,
        would show a Job that was just made as missing: lost, by all that can be seen. Should the
        store itself have been set back, the liveness probe ends the process and what it knows.
        """
        seen = self._note_age(kind, page)
        if seen is not None and seen < known:
            raise Unavailable(f"list of {kind}: it is of version {seen}, {known} was seen before")

    def _note_age(self, kind: str, answer: Body) -> int | None:
        version = str((answer.get("metadata") or {}).get("resourceVersion") or "")
        if not version.isdecimal():
            return None
        self._newest[kind] = max(self._newest.get(kind, 0), int(version))
        return int(version)

    async def _page(
        self, kind: str, namespace: str, query: dict[str, str], shape: type[Any]
    ) -> Body | None:
        try:
            return await self._call("GET", _path(kind, namespace), query=query, shape=shape)
        except _Answer as answer:
            if answer.code == _GONE:
                return None
            raise _translated(f"list of {kind}", answer) from None

    async def served(self, api_version: str) -> frozenset[str]:
        """Return the kinds that are served under a group and version."""
        try:
            found = await self._call("GET", f"/apis/{api_version}")
        except _Answer as answer:
            if answer.code == _NOT_FOUND:
                return frozenset()
            raise _translated(f"discovery of {api_version}", answer) from None
        return frozenset(str(item.get("kind")) for item in found.get("resources") or ())

    async def apply(self, manifest: Body) -> str:
        """Make the object so (server-side apply); return its uid."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        place = kind if kind in _KINDS else f"{manifest['apiVersion']}/{kind}"
        path = _path(place, metadata["namespace"], metadata["name"])
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        try:
            text = server_side_apply.encoded(manifest)
            made = await self._call(
                "PATCH", path, query=query, body=text, content=server_side_apply.CONTENT_TYPE
            )
        except _Answer as answer:
            raise _translated(f"{kind} {metadata['name']}", answer) from None
        self._note_age(place, made)
        return str((made.get("metadata") or {}).get("uid", ""))

    async def create(self, manifest: Body) -> None:
        """Make an object that must not be there yet."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        path = _path(kind, metadata["namespace"])
        try:
            await self._call(
                "POST", path, query={"fieldManager": names.FIELD_MANAGER}, body=manifest
            )
        except _Answer as answer:
            raise _translated(f"{kind} {metadata['name']}", answer) from None

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str, grace: int | None
    ) -> None:
        """Delete the object if it still has this uid; an absent one is fine."""
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self._call("DELETE", _path(kind, namespace, name), body=options)
        except _Answer as answer:
            # A conflict is another object of this name: the one that was meant is gone.
            if answer.code not in (_NOT_FOUND, _CONFLICT):
                raise _translated(f"{kind} {name}", answer) from None

    async def replace_status(self, body: Body) -> str:
        """Write ``status`` of a run that was read at ``metadata.resourceVersion``.

        Returns the version that this made.
        """
        metadata = body["metadata"]
        path = _path(names.KIND, metadata["namespace"], metadata["name"]) + "/status"
        try:
            written = await self._call("PUT", path, body=body)
        except _Answer as answer:
            if answer.code == _NOT_FOUND:
                # Deleted in the meantime: nothing more may be told or done in its name.
                raise Conflict(f"status of {metadata['name']}: the run is gone") from None
            raise _translated(f"status of {metadata['name']}", answer) from None
        self._note_age(names.KIND, written)
        return str((written.get("metadata") or {}).get("resourceVersion", ""))

    async def create_event(self, namespace: str, body: Body) -> None:
        """Create an Event; one of the same name already there is fine."""
        try:
            await self._call("POST", _path("Event", namespace), body=body)
        except _Answer as answer:
            if answer.code != _CONFLICT:
                raise _translated("Event", answer) from None

    async def review_token(self, token: str, audience: str) -> Identity | None:
        """Return the pod that a token was made for, None for a token that is not valid."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        try:
            review = await self._call("POST", _path("TokenReview", ""), body=body)
        except _Answer as answer:
            raise _translated("TokenReview", answer) from None
        return _identity(review.get("status") or {}, audience)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        content: str = "application/json",
        shape: type[Any] = dict,
    ) -> dict[str, Any]:
        headers = {"Accept": "application/json", "Content-Type": content, **PLAIN}
        headers["User-Agent"] = f"qwenft-operator/{names.VERSION}"
        url = self._client.configuration.host + path
        if query:
            url += "?" + urlencode(query)
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        try:
            response = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=_TIMEOUT
            )
            data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._listener(method, None)
            raise Unavailable(f"{method} {path}: {type(error).__name__} {error}") from error
        self._listener(method, response.status)
        if shape is not dict and response.status == _OK:
            return _listing(data, shape, path)
        return _parsed(response.status, data)


class _Listing(TypedDict, Generic[Shape], total=False):
    metadata: dict[str, Any]
    items: list[Shape] | None


@cache
def _reader(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_Listing[shape])


def _listing(data: bytes, shape: Any, path: str) -> dict[str, Any]:
    """Read of a list what its items' shape has."""
    try:
        return dict(_reader(shape).decode(data))
    except msgspec.MsgspecError as error:
        raise Unavailable(f"GET {path}: the list cannot be read: {error}") from error


def _path(kind: str, namespace: str, name: str = "") -> str:
    prefix, plural = _KINDS.get(kind) or _elsewhere(kind)
    middle = f"/namespaces/{quote(namespace)}" if namespace and kind != "Node" else ""
    return f"{prefix}{middle}/{plural}" + (f"/{quote(name)}" if name else "")


def _elsewhere(place: str) -> tuple[str, str]:
    """Return prefix and plural of a kind that is named with its group: others share the name."""
    api_version, _, kind = place.rpartition("/")
    return f"/apis/{api_version}", f"{kind.lower()}s"


def _parsed(status: int, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data) if data else {}
    except ValueError:
        document = {"message": data[:512].decode(errors="replace")}
    if not 200 <= status < 300:  # noqa: PLR2004 - HTTP's success
        raise _Answer(status, str(document.get("message") or f"HTTP status {status}"))
    return dict(document)


def _translated(what: str, answer: _Answer) -> Exception:
    if answer.code in _PASSING:
        return Unavailable(f"{what}: {answer}")
    if answer.code == _CONFLICT:
        return Conflict(f"{what}: {answer.message}")
    return Refused(what, answer.message)


def _identity(status: Body, audience: str) -> Identity | None:
    """Only a token of a pod's own ServiceAccount, made for this audience, names a pod."""
    user = status.get("user") or {}
    extra = user.get("extra") or {}
    account = str(user.get("username") or "")
    pods: list[str] = extra.get(_POD_NAME) or []
    uids: list[str] = extra.get(_POD_UID) or []
    if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
        return None
    if not account.startswith(_ACCOUNT) or len(pods) != 1 or len(uids) != 1:
        return None
    namespace = account.removeprefix(_ACCOUNT).split(":")[0]
    return Identity(namespace=namespace, pod=pods[0], pod_uid=uids[0])
