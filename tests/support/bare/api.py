"""A client of the plane's apiserver that takes little: one connection, kept."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from bare.plane import Plane

__all__ = ["Api"]

_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Api:
    """Reads and writes as administrator."""

    def __init__(self, plane: Plane) -> None:
        folder = plane.folder / "certificates"
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        context.load_cert_chain(folder / "admin.crt", folder / "admin.key")
        self._connection = http.client.HTTPSConnection(
            urlsplit(plane.url).netloc, context=context, timeout=120
        )

    def __del__(self) -> None:
        """Close the connection: whoever makes a client need not think of its end."""
        self._connection.close()

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        accept: str = "",
        content: str = "application/json",
    ) -> Any:
        """Return the answer's JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content, "Accept": accept or "application/json"}
        try:
            status, text = self._exchange(method, path, data, headers)
        except http.client.RemoteDisconnected:
            if method != "GET":
                raise
            # The apiserver has ended a connection that rested for minutes: on a new one, then.
            status, text = self._exchange(method, path, data, headers)
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {status} {text[:500]!r}")
        return json.loads(text)

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Return the answer's status and text; after a failure the next call begins anew."""
        try:
            self._connection.request(method, path, body=data, headers=dict(headers))
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (http.client.HTTPException, OSError):
            self._connection.close()
            raise

    def create_run(self, body: Mapping[str, Any]) -> None:
        """Create a run."""
        namespace = body["metadata"]["namespace"]
        self.call("POST", f"/apis/qwenft.dev/v1alpha1/namespaces/{namespace}/qwenfinetunes", body)

    def runs(self, namespace: str) -> list[dict[str, Any]]:
        """Return the runs of a namespace."""
        path = f"/apis/qwenft.dev/v1alpha1/namespaces/{namespace}/qwenfinetunes"
        found: list[dict[str, Any]] = self.call("GET", path)["items"] or []
        return found

    def pod_tokens(self, namespace: str, audience: str) -> dict[str, str]:
        """Return for each run the token that the kubelet would give to its first pod."""
        pods = self.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"] or ()
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
        tokens = {}
        for pod in pods:
            metadata = pod["metadata"]
            if metadata["labels"].get("batch.kubernetes.io/job-completion-index") != "0":
                continue
            bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"],
                     "uid": metadata["uid"]}  # fmt: skip
            spec = {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound}
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            tokens[metadata["labels"]["qwenft.dev/run"]] = str(
                self.call("POST", path, body)["status"]["token"]
            )
        return tokens

    def labels(self, namespace: str, kind: str = "api/v1", plural: str = "pods") -> list[Any]:
        """Return the labels of all objects of a kind, from metadata alone."""
        return [item.get("labels", {}) for item in self.metadata(namespace, kind, plural)]

    def metadata(self, namespace: str, kind: str, plural: str) -> list[Any]:
        """Return the metadata of all objects of a kind."""
        path = f"/{kind}/namespaces/{namespace}/{plural}?resourceVersion=0"
        listing = self.call("GET", path, accept=_METADATA)
        return [item["metadata"] for item in listing["items"] or ()]
