"""Traces of what the operator does, by OpenTelemetry, where its standard variables ask for them.

A look at a run is a trace; below it lie planning and each request to the apiserver. Without
``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` no library is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from qwenft_operator.port import Cluster, Identity

__all__ = ["SILENT", "OpenTelemetry", "TracedCluster", "Traces", "start"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SPOKEN = ("", "http/protobuf")
_INSTRUMENT = "qwenft.operator"

logger = logging.getLogger(__name__)
Body = Mapping[str, Any]


class Traces(Protocol):
    """Where spans go."""

    def span(self, name: str, **attributes: str) -> AbstractContextManager[None]:
        """Return a context that is a span; what it raises is noted and goes on."""

    def stop(self) -> None:
        """Send what was not sent yet."""


class _Silent:
    def span(self, name: str, **attributes: str) -> AbstractContextManager[None]:  # noqa: ARG002 - of the protocol
        return nullcontext()

    def stop(self) -> None:
        return


SILENT: Traces = _Silent()


class OpenTelemetry:
    """Spans of an OpenTelemetry ``TracerProvider``."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_INSTRUMENT)

    @contextmanager
    def span(self, name: str, **attributes: str) -> Iterator[None]:
        """Open a span below the current one; ``k8s_object_name`` becomes ``k8s.object.name``."""
        named = {key.replace("_", "."): value for key, value in attributes.items() if value}
        with self._tracer.start_as_current_span(name, attributes=named):
            yield

    def stop(self) -> None:
        """Send what was not sent yet."""
        self._provider.shutdown()


def start(environ: Mapping[str, str]) -> Traces:
    """Return the traces that the environment asks for.

    Tracing is never a reason not to run: what is missing costs a warning.
    """
    asked = any(environ.get(name) for name in _ENDPOINTS)
    if not asked or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return SILENT
    protocol = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    if protocol not in _SPOKEN:
        logger.warning("no traces: OTEL_EXPORTER_OTLP_PROTOCOL %s; set http/protobuf", protocol)
        return SILENT
    try:
        return OpenTelemetry(_provider(environ))
    except ImportError as error:
        logger.warning("no traces: %s; install qwenft[traces]", error)
        return SILENT


def _provider(environ: Mapping[str, str]) -> Any:
    """Return a provider that sends in batches; exporter and sampler read their own variables."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - only where traces are asked for
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    own = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "qwenft-operator"}
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class TracedCluster:
    """A :class:`~qwenft_operator.port.Cluster` each of whose requests is a span."""

    def __init__(self, cluster: Cluster, traces: Traces) -> None:
        self._cluster = cluster
        self._traces = traces

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """Return one object, None if there is none."""
        with self._span("get", kind, namespace, name):
            return await self._cluster.get(kind, namespace, name)

    async def list(
        self, kind: str, namespace: str = "", *, labels: str = "", fields: str = "",
        shape: type[Any] = dict,
    ) -> tuple[Body, ...]:  # fmt: skip
        """Return the objects of a kind."""
        with self._span("list", kind, namespace):
            return await self._cluster.list(
                kind, namespace, labels=labels, fields=fields, shape=shape
            )

    async def served(self, api_version: str) -> frozenset[str]:
        """Return the kinds that are served."""
        with self._span("discover", api_version):
            return await self._cluster.served(api_version)

    async def apply(self, manifest: Body) -> str:
        """Make the object so."""
        with self._of("apply", manifest):
            return await self._cluster.apply(manifest)

    async def create(self, manifest: Body) -> None:
        """Make an object that must not be there yet."""
        with self._of("create", manifest):
            await self._cluster.create(manifest)

    async def delete(
        self, kind: str, namespace: str, name: str, *, uid: str, grace: int | None
    ) -> None:
        """Delete the object if it still has this uid."""
        with self._span("delete", kind, namespace, name):
            await self._cluster.delete(kind, namespace, name, uid=uid, grace=grace)

    async def replace_status(self, body: Body) -> str:
        """Write ``status`` of a run."""
        with self._of("status", body):
            return await self._cluster.replace_status(body)

    async def create_event(self, namespace: str, body: Body) -> None:
        """Create an Event."""
        with self._span("create", "Event", namespace, body["metadata"]["name"]):
            await self._cluster.create_event(namespace, body)

    async def review_token(self, token: str, audience: str) -> Identity | None:
        """Return whom the token belongs to."""
        with self._span("create", "TokenReview"):
            return await self._cluster.review_token(token, audience)

    def _of(self, verb: str, body: Body) -> AbstractContextManager[None]:
        meta = body["metadata"]
        return self._span(verb, body["kind"], meta.get("namespace", ""), meta["name"])

    def _span(
        self, verb: str, kind: str, namespace: str = "", name: str = ""
    ) -> AbstractContextManager[None]:
        return self._traces.span(
            f"{verb} {kind}", k8s_namespace_name=namespace, k8s_object_name=name
        )
