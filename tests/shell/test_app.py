"""The wiring of the process: options, node signs, liveness, and kopf's side of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, cast

import kopf
import pytest

from qwenft_operator import app as app_module
from qwenft_operator import main, names
from qwenft_operator.__main__ import arguments
from qwenft_operator.app import App, Options, _sign
from qwenft_operator.cluster import ApiCluster
from qwenft_operator.reconcile import Key
from qwenft_operator.run import Settings
from simulated import World, node_body, run_body


def app_on(world: World, options: Options | None = None) -> App:
    return App(cast("ApiCluster", world), options or Options())


def test_options_come_from_the_environment() -> None:
    options = Options.from_environment(
        {
            "QWENFT_WATCH_NAMESPACE": "team",
            "QWENFT_WORKERS": "3",
            "QWENFT_TRAINER_IMAGE": "trainer:2",
            "QWENFT_IMAGE_PULL_POLICY": "Never",
            "QWENFT_PROGRESS_URL": "https://x:8443",
            "QWENFT_CERTIFICATES": "/nowhere",
            "QWENFT_PROGRESS_PORT": "9443",
        }
    )
    assert (options.namespace, options.workers, options.port) == ("team", 3, 9443)
    settings = options.settings()
    assert (settings.trainer_image, settings.image_pull_policy) == ("trainer:2", "Never")


def test_the_operator_knows_its_own_namespace_and_name() -> None:
    options = Options.from_environment(
        {"QWENFT_OPERATOR_NAMESPACE": "home", "QWENFT_OPERATOR_NAME": "prod-qwenft",
         "QWENFT_LEARN": "false"}
    )  # fmt: skip
    assert (options.home, options.name, options.learns) == ("home", "prod-qwenft", False)
    bare = Options.from_environment({"QWENFT_OPERATOR_NAME": ""})
    assert (bare.home, bare.name, bare.learns) == ("", "qwenft", True)


def test_an_empty_environment_has_sound_defaults() -> None:
    options = Options.from_environment({})
    assert (options.namespace, options.workers, options.port) == ("", 8, 8443)
    assert options.settings().trainer_image
    assert options.settings().progress_url == ""


def test_what_is_set_for_all_runs_takes_the_place_of_the_defaults() -> None:
    seconds = {
        "patience_seconds": 1.0, "growth_seconds": 0.0, "growth_age_seconds": 3.0,
        "step_patience": 4.0, "first_step_patience": 5.0, "node_patience": 6.0,
        "image_patience": 7.5,
    }  # fmt: skip
    environment = {
        "QWENFT_PATIENCE": "1", "QWENFT_GROWTH": "0", "QWENFT_GROWTH_AGE": "3",
        "QWENFT_STEP_PATIENCE": "4", "QWENFT_FIRST_STEP_PATIENCE": "5",
        "QWENFT_NODE_PATIENCE": "6", "QWENFT_IMAGE_PATIENCE": "7.5",
        "QWENFT_GANG": "volcano", "QWENFT_SCHEDULER": "our-volcano",
    }  # fmt: skip
    settings = Options.from_environment(environment).settings()
    assert settings == Settings(gang="volcano", scheduler="our-volcano", **seconds)  # type: ignore[arg-type]
    unset = Options.from_environment(dict.fromkeys(environment, ""))
    assert unset.settings() == Settings(), "empty is as good as not set"


@pytest.mark.parametrize(
    ("variable", "text"),
    [("QWENFT_WORKERS", "many"), ("QWENFT_PROGRESS_PORT", "84x3"), ("QWENFT_PATIENCE", "10m")],
)
def test_a_variable_that_is_no_number_is_named(variable: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"{variable}: '{text}' is no number"):
        Options.from_environment({variable: text})


def test_pods_are_told_of_the_endpoint_only_if_it_can_be_served(tmp_path: Path) -> None:
    options = Options(progress_url="https://x:8443", certificates=str(tmp_path))
    assert not options.serving
    assert options.settings().progress_url == ""
    (tmp_path / "tls.crt").write_text("cert", encoding="utf-8")
    (tmp_path / "ca.crt").write_text("the authority", encoding="utf-8")
    assert options.serving
    settings = options.settings()
    assert (settings.progress_url, settings.progress_ca) == ("https://x:8443", "the authority")


def test_heartbeats_wake_nobody() -> None:
    before = node_body("n")
    after = node_body("n")
    after["metadata"]["resourceVersion"] = "99"
    after["status"]["conditions"][0]["lastHeartbeatTime"] = "now"
    after["status"]["images"] = [{"names": ["x"]}]
    assert _sign(before) == _sign(after)


@pytest.mark.parametrize(
    "changed",
    [
        node_body("n", ready=False),
        node_body("n", unschedulable=True),
        node_body("n", labels={"pool": "a"}),
        node_body("n", annotations={"qwenft.dev/network-gbps": "100"}),
        node_body("n", allocatable={"cpu": "4"}),
        node_body("n", taints=({"key": "x", "effect": "NoSchedule"},)),
    ],
)
def test_whatever_a_plan_depends_on_is_a_change(changed: dict[str, Any]) -> None:
    assert _sign(node_body("n")) != _sign(changed)


def woken_by(app: App, world: World, body: dict[str, Any], *, gone: bool = False) -> bool:
    """Tell whether a node event wakes a run that waits."""
    app._reconciler._waiting = {Key("team", "tiny"): (0, 0.0, "tiny", "team")}
    app._queue._waiting.clear()
    app.node_changed(body, gone=gone)
    assert world.writes == []
    return Key("team", "tiny") in app._queue._waiting


def test_only_changes_of_a_node_wake_the_runs_that_wait() -> None:
    world = World()

    async def main_() -> list[bool]:
        app = app_on(world)
        return [
            woken_by(app, world, node_body("n")),
            woken_by(app, world, node_body("n")),
            woken_by(app, world, node_body("n", ready=False)),
            woken_by(app, world, node_body("n", ready=False), gone=True),
            woken_by(app, world, node_body("n", ready=False), gone=True),
        ]

    assert asyncio.run(main_()) == [True, False, True, True, False]


def a_job(*conditions: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "other-1",
            "namespace": "team",
            "labels": names.run_labels("other", "uid-2") | labels,
        },
        "status": {"conditions": [{"type": kind, "status": "True"} for kind in conditions]},
    }


@pytest.mark.parametrize(
    ("body", "gone", "wakes"),
    [
        (a_job(), False, False),
        (a_job("Suspended"), False, False),
        (a_job("SuccessCriteriaMet"), False, True),
        (a_job("FailureTarget"), False, True),
        (a_job("FailureTarget", "Failed"), False, True),
        (a_job(), True, True),
        (a_job(**{names.LABEL_QUEUE: "team-queue"}), False, True),
    ],
)
def test_a_job_wakes_its_run_and_those_that_wait_if_it_may_have_freed_something(
    body: dict[str, Any], *, gone: bool, wakes: bool
) -> None:
    async def main_() -> tuple[set[Key], int]:
        app = app_on(World())
        app._reconciler._waiting = {Key("team", "tiny"): (0, 0.0, "tiny", "team")}
        forgotten = app._reconciler._outlook._forgotten
        app.job_changed(body, gone=gone)
        return set(app._queue._waiting), app._reconciler._outlook._forgotten - forgotten

    others = {Key("team", "tiny")} if wakes else set()
    assert asyncio.run(main_()) == ({Key("team", "other")} | others, int(wakes))


@pytest.mark.parametrize(
    ("tracked", "gone", "wakes"), [(True, False, 0), (False, False, 1), (True, True, 1)]
)
def test_pods_that_end_wake_those_that_wait_once(
    monkeypatch: pytest.MonkeyPatch, *, tracked: bool, gone: bool, wakes: int
) -> None:
    """Metadata is all that is known of a pod: its Job lets go of it once it has counted its end."""
    monkeypatch.setattr(app_module, "_FREEING_SECONDS", 0.01)
    labels = names.run_labels("other", "uid-2")
    finalizers = ["batch.kubernetes.io/job-tracking"] if tracked else []
    metadata = {
        "name": "other-1-0", "namespace": "team", "labels": labels, "finalizers": finalizers,
    }  # fmt: skip

    async def main_() -> tuple[int, set[Key]]:
        app = app_on(World())
        app._reconciler._waiting = {Key("team", "tiny"): (0, 0.0, "tiny", "team")}
        forgotten = app._reconciler._outlook._forgotten
        for _ in range(50):
            app.pod_changed({"metadata": metadata}, gone=gone)
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(0.03, later.set)
        await later.wait()
        return app._reconciler._outlook._forgotten - forgotten, set(app._queue._waiting)

    others = {Key("team", "tiny")} if wakes else set()
    assert asyncio.run(main_()) == (wakes, {Key("team", "other")} | others)


def test_where_nobody_waits_the_end_of_a_pod_is_its_run_s_alone() -> None:
    async def main_() -> object:
        app = app_on(World())
        app.pod_changed({"metadata": {"name": "p", "namespace": "team"}}, gone=True)
        return app._freeing

    assert asyncio.run(main_()) is None


def test_kopf_is_started_with_what_has_no_setting() -> None:
    command = arguments({})
    assert command[:4] == [sys.executable, "-m", "kopf", "run"]
    assert "--all-namespaces" in command
    assert "--standalone" in command
    assert command[-2:] == ["-m", "qwenft_operator.main"]
    one = arguments({"QWENFT_WATCH_NAMESPACE": "team", "QWENFT_LOG_FORMAT": "json"})
    assert one[one.index("--namespace") + 1] == "team"
    assert "--all-namespaces" not in one
    assert one[one.index("--log-format") + 1] == "json"


class Recorder:
    """Stands for the application behind kopf's handlers."""

    def __init__(self, trouble: str = "") -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._trouble = trouble

    def run_changed(self, body: Any, *, gone: bool) -> None:
        self.calls.append(("run", body["metadata"]["name"], gone))

    def job_changed(self, body: Any, *, gone: bool) -> None:
        self.calls.append(("job", body["metadata"]["name"], gone))

    def pod_changed(self, body: Any, *, gone: bool) -> None:
        self.calls.append(("pod", body["metadata"]["name"], gone))

    def node_changed(self, body: Any, *, gone: bool) -> None:
        self.calls.append(("node", body["metadata"]["name"], gone))

    def trouble(self) -> str:
        return self._trouble

    async def stop(self) -> None:
        self.calls.append(("stop",))


def memo_of(app: Recorder) -> kopf.Memo:
    return kopf.Memo(app=app)


def test_events_wake_and_do_nothing_else() -> None:
    app = Recorder()
    memo = memo_of(app)

    async def main_() -> None:
        run = cast("kopf.Body", run_body())
        await main.on_run(memo=memo, body=run, type="MODIFIED")
        job = cast("kopf.Body", {"metadata": {"name": "tiny-1"}})
        await main.on_job(memo=memo, body=job, type="MODIFIED")
        pod = cast("kopf.Body", {"metadata": {"name": "tiny-1-0"}})
        await main.on_pod(memo=memo, body=pod, type="DELETED")
        body = cast("kopf.Body", node_body("n"))
        await main.on_node(memo=memo, body=body, type="DELETED")
        await main.cleanup(memo=memo)

    asyncio.run(main_())
    run = ("run", "tiny", False)
    pod = ("pod", "tiny-1-0", True)
    assert app.calls == [run, ("job", "tiny-1", False), pod, ("node", "n", True), ("stop",)]


def test_a_process_that_never_started_can_be_cleaned_up() -> None:
    asyncio.run(main.cleanup(memo=kopf.Memo()))


def test_the_probe_fails_with_the_trouble() -> None:
    assert main.probe(memo=memo_of(Recorder())) == "ok"
    with pytest.raises(kopf.PermanentError, match="ended: queue"):
        main.probe(memo=memo_of(Recorder("ended: queue")))


def test_watches_are_filtered_by_the_server_and_leave_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Options] = []

    async def start(options: Options) -> Recorder:
        started.append(options)
        return Recorder()

    monkeypatch.setattr(App, "start", start)
    settings, memo = kopf.OperatorSettings(), kopf.Memo()
    asyncio.run(main.startup(settings=settings, memo=memo))
    assert isinstance(memo.app, Recorder)
    assert len(started) == 1
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
    assert isinstance(settings.persistence.diffbase_storage, main.NoEssence)
    assert settings.queueing.idle_timeout < 1, "a task keeps its object for as long"
    ours = "app.kubernetes.io/managed-by=qwenft"
    assert settings.watching.label_selectors["v1", "pods"] == ours
    assert settings.watching.label_selectors["batch/v1", "jobs"] == ours
    assert isinstance(settings.watching.server_timeout, int), "the API takes whole seconds"


def test_no_handler_needs_a_finalizer_or_an_annotation() -> None:
    registry = kopf.get_default_registry()
    assert not list(registry._changing.get_all_handlers())
    assert not list(registry._spawning.get_all_handlers())
    assert not list(registry._indexing.get_all_handlers())
