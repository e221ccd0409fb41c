"""Traces: what a look at a run leaves in an exporter, and that nothing is loaded without one."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from qwenft_operator import traces
from qwenft_operator.port import Unavailable
from qwenft_operator.reconcile import Key, Reconciler
from qwenft_operator.traces import OpenTelemetry, TracedCluster
from simulated import World


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def opened(exporter: InMemorySpanExporter) -> OpenTelemetry:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OpenTelemetry(provider)


def look(world: World, opened: OpenTelemetry) -> None:
    reconciler = Reconciler(TracedCluster(world, opened), clock=lambda: world.now)
    reconciler.traced_by(opened)
    asyncio.run(reconciler(Key("team", "tiny")))


def below(spans: tuple[ReadableSpan, ...], root: ReadableSpan) -> list[str]:
    assert root.context is not None
    return [
        span.name
        for span in spans
        if span.parent is not None and span.parent.span_id == root.context.span_id
    ]


def test_a_look_is_one_trace_with_the_plan_and_each_write_in_it(
    exporter: InMemorySpanExporter, opened: OpenTelemetry
) -> None:
    world = World()
    world.submit()
    look(world, opened)
    spans = exporter.get_finished_spans()
    (root,) = [span for span in spans if span.parent is None]
    assert root.name == "reconcile"
    assert root.attributes == {"k8s.namespace.name": "team", "qwenft.run": "tiny"}
    names = below(spans, root)
    assert names[0] == "get QwenFineTune"
    written = ["apply ConfigMap", "apply Service", "apply NetworkPolicy", "apply Job",
               "status QwenFineTune", "create Event"]  # fmt: skip
    assert names[names.index("plan and render") + 1 :] == written
    assert len({span.context.trace_id for span in spans if span.context}) == 1


def test_a_span_names_the_object(exporter: InMemorySpanExporter, opened: OpenTelemetry) -> None:
    world = World()
    world.submit()
    look(world, opened)
    (job,) = [span for span in exporter.get_finished_spans() if span.name == "apply Job"]
    assert job.attributes == {"k8s.namespace.name": "team", "k8s.object.name": "tiny-1"}


def test_what_a_request_raises_is_noted_and_goes_on(
    exporter: InMemorySpanExporter, opened: OpenTelemetry
) -> None:
    class Down(World):
        async def get(self, *_: Any) -> Any:
            raise Unavailable("no answer")

    with pytest.raises(Unavailable):
        look(Down(), opened)
    failed = {span.name: span.status.is_ok for span in exporter.get_finished_spans()}
    assert failed == {"get QwenFineTune": False, "reconcile": False}


def test_every_request_of_the_port_is_traced() -> None:
    from qwenft_operator.port import Cluster  # noqa: PLC0415 - compared, not used

    asked = {name for name in vars(Cluster) if not name.startswith("_")}
    assert asked == {name for name in vars(TracedCluster) if not name.startswith("_")}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_traced_unless_it_is_asked_for(environ: dict[str, str]) -> None:
    assert traces.start(environ) is traces.SILENT


def test_without_an_endpoint_no_library_is_loaded() -> None:
    program = (
        "import sys, qwenft_operator.traces as t, qwenft_operator.app; t.start({});"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_protocol_that_is_not_spoken_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    with caplog.at_level(logging.WARNING):
        assert traces.start(environ) is traces.SILENT
    assert "set http/protobuf" in caplog.text


def test_a_missing_library_costs_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.WARNING):
        assert traces.start({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}) is traces.SILENT
    assert "install qwenft[traces]" in caplog.text


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportTraceServiceRequest]]:
    """Stand in for a collector that takes OTLP by HTTP."""
    taken: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            taken.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    yield taken
    server.shutdown()
    server.server_close()


def test_spans_reach_a_collector_under_the_operator_s_name(
    collector: list[ExportTraceServiceRequest],
) -> None:
    import os  # noqa: PLC0415 - what the fixture has set

    opened = traces.start(os.environ)
    with opened.span("reconcile", qwenft_run="tiny"):
        pass
    opened.stop()
    (resource,) = collector[0].resource_spans
    told = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert told["service.name"] == "qwenft-operator"
    assert resource.scope_spans[0].spans[0].name == "reconcile"
