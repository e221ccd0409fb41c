"""Requests drawn from the schema and edited before a real apiserver, which refuses what it may.

What it refuses changes nothing. What it takes the operator has to bring to rest: the newest plan's
Job is the one that lives, nothing is written while nothing happens, also by a new process, no
traceback is logged, and a good request is taken up again. Pods are those of :mod:`chaos.kubelet`
and never end; the resync is every 3 s instead of every 60.
"""

from __future__ import annotations

import asyncio
import copy
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.gate import Answer, Call, Meddler
from chaos.lives import LIVES, RUN
from chaos.nursery import Keeper
from chaos.scene import Scene, scene
from qwenft_operator import names
from qwenft_operator.run import Run
from simulated.builders import run_body
from simulated.edits import EDITS, GOOD, Edit, edited

pytestmark = [pytest.mark.cluster, pytest.mark.full]

AT_ONCE = 6
JSON_PATCH = "application/json-patch+json"


class Counting(Meddler):
    """Counts the operator's writes, and how often it looked at all runs."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.looks = 0

    async def before(self, call: Call) -> Answer | None:
        if call.writes:
            self.writes.append(call.told)
        elif call.method == "GET" and call.path.endswith(names.PLURAL) and not call.watches:
            self.looks += 1
        return None


@dataclass(kw_only=True)
class Edited:
    """One run that is edited, and the oracles."""

    stage: Scene
    namespace: str
    counting: Counting
    keeper: Keeper
    seen: Counter[str] = field(default_factory=Counter)

    async def run(self) -> dict[str, Any]:
        body = await self.stage.api.get("Run", self.namespace, RUN)
        assert body is not None
        return body

    async def replace(self, spec: Any) -> bool:
        """Replace the spec; False if the apiserver refuses it."""
        patch = [{"op": "replace", "path": "/spec", "value": spec}]
        path = self.stage.api.path("Run", self.namespace, RUN)
        try:
            await self.stage.api.call("PATCH", path, patch, content=JSON_PATCH)
        except RuntimeError:
            return False
        return True

    async def anew(self, spec: Any) -> bool:
        """Delete the run and create one with this spec; False if the apiserver refuses it."""
        body = run_body(RUN, self.namespace) | {"spec": spec}
        api = self.stage.api
        check = f"{api.path('Run', self.namespace)}?dryRun=All&fieldValidation=Strict"
        probe = body | {"metadata": body["metadata"] | {"name": "probe"}}
        try:
            await api.call("POST", check, probe)
        except RuntimeError:
            return False
        await api.delete("Run", self.namespace, RUN)
        for kind in ("Run", "Job", "Pod"):
            while await api.list(kind, self.namespace):  # noqa: ASYNC110 - theirs to end
                await asyncio.sleep(0.1)
        await api.create("Run", body)
        return True

    async def rest(self, seconds: float = 90.0) -> dict[str, Any]:
        """Return the run once its pods run, and two looks at everything have written nothing."""
        deadline = asyncio.get_running_loop().time() + seconds
        quiet, last = self.counting.looks, len(self.counting.writes)
        while True:
            await asyncio.sleep(0.1)
            if len(self.counting.writes) != last or not await self.pods_stand():
                quiet, last = self.counting.looks, len(self.counting.writes)
            body = await self.run()
            known = (body.get("status") or {}).get("observedGeneration")
            current = known == body["metadata"]["generation"] or elsewhere(body)
            if current and self.counting.looks >= quiet + 2:
                return body
            assert asyncio.get_running_loop().time() < deadline, (
                f"never at rest: {self.counting.writes[-6:]}, {body}"
            )

    async def pods_stand(self) -> bool:
        """Return whether all pods run that there are to be: what comes up is told later."""
        pods = await self.stage.api.list("Pod", self.namespace)
        wanted = sum(job["spec"]["completions"] for job in await self.living())
        return len(pods) >= wanted and all(
            each["status"].get("phase") == "Running" and "deletionTimestamp" not in each["metadata"]
            for each in pods
        )

    async def living(self) -> list[dict[str, Any]]:
        jobs = await self.stage.api.list("Job", self.namespace)
        return [
            job for job in jobs
            if not job["spec"].get("suspend") and not _is_over(job)
            and "deletionTimestamp" not in job["metadata"]
        ]  # fmt: skip

    async def check(self) -> None:
        """Hold what must be true at rest."""
        body = await self.rest()
        status = body.get("status") or {}
        if elsewhere(body):
            assert not await self.living(), "another controller answers for it"
            return
        self.seen[f"phase {status['phase']}"] += 1
        assert len(json.dumps(status)) < 20_000
        living = await self.living()
        if status["phase"] in (names.STARTING, names.TRAINING):
            (job,) = living
            labels = job["metadata"]["labels"]
            assert labels[names.LABEL_PLAN] == status["plan"]["digest"]
            assert labels[names.LABEL_ATTEMPT] == str(status["attempt"])
            assert job["spec"]["completions"] == status["plan"]["nodes"]
        else:
            assert not living, status

    async def dies(self) -> None:
        """Start a new process at rest, and see that it finds nothing to do."""
        wrote, starts, looks = len(self.counting.writes), self.keeper.starts, self.counting.looks
        self.keeper.kill()
        while self.keeper.starts == starts or self.counting.looks < looks + 3:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert self.counting.writes[wrote:] == [], "a new process wrote at rest"


def elsewhere(body: dict[str, Any]) -> bool:
    return Run.from_object(body).is_managed_elsewhere


def _is_over(job: dict[str, Any]) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(item["type"] in ("Complete", "Failed") for item in conditions)


async def lead(life: Edited, edits: list[Edit], *, started: bool) -> None:
    """Edit a run; ``started``: one that runs already, else one that is new with every edit."""
    await life.stage.api.create("Run", run_body(RUN, life.namespace))
    await life.check()
    for kind, path, value in edits:
        body = await life.run()
        spec = edited(body["spec"], kind, path, value)
        wrote = len(life.counting.writes)
        taken = await (life.replace(spec) if started else life.anew(spec))
        life.seen[f"{kind} {'taken' if taken else 'refused'}"] += 1
        if taken:
            await life.check()
            continue
        now = await life.run()
        assert now["metadata"]["generation"] == body["metadata"]["generation"]
        assert life.counting.writes[wrote:] == [], "it was refused, and something was written"
    await life.dies()
    if not started:
        assert await life.anew(copy.deepcopy(GOOD))
        await life.check()
        assert (await life.run())["status"]["phase"] == names.STARTING


def sequences(count: int) -> list[tuple[list[Edit], bool]]:
    """Return the first sequences of edits that hypothesis draws; always the same ones."""
    found: list[tuple[list[Edit], bool]] = []
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

    @settings(max_examples=count, deadline=None, derandomize=True, database=None,
              suppress_health_check=quiet)  # fmt: skip
    @given(st.lists(EDITS, min_size=6, max_size=12), st.booleans())
    def draw(edits: list[Edit], started: bool) -> None:  # noqa: FBT001
        found.append((edits, started))

    draw()
    return found


async def play(
    stage: Scene, lives: list[tuple[list[Edit], bool]]
) -> tuple[Counter[str], list[str]]:
    """Lead all lives, some at a time; return what was seen, and what was wrong."""
    places, seen, wrong = asyncio.Semaphore(AT_ONCE), Counter[str](), []

    async def one(number: int, edits: list[Edit], *, started: bool) -> None:
        namespace, counting = f"edited-{number}", Counting()
        await stage._namespace(namespace)
        stage.kubelet.programs[namespace] = LIVES["deleted"].program
        async with places, stage.operators(namespace, counting) as (keeper,):
            life = Edited(stage=stage, namespace=namespace, counting=counting, keeper=keeper)
            try:
                await lead(life, edits, started=started)
            except (AssertionError, ValueError) as error:
                wrong.append(f"{namespace}, started {started}, {edits}: {error!r}")
            said = keeper.log.read_text(encoding="utf-8")
            if "Traceback" in said:
                wrong.append(f"{namespace}, {edits}: {said[-3000:]}")
            seen.update(life.seen)
            await stage.api.delete("Run", namespace, RUN)

    await asyncio.gather(
        *(one(number, edits, started=started) for number, (edits, started) in enumerate(lives))
    )
    return seen, wrong


def led(count: int) -> tuple[Counter[str], list[str]]:
    async def main() -> tuple[Counter[str], list[str]]:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            async with scene(Path(folder)) as stage:
                return await play(stage, sequences(count))

    return asyncio.run(main())


@pytest.mark.timeout(1500)
def test_two_hundred_edits_before_a_real_apiserver_leave_the_operator_right() -> None:
    seen, wrong = led(30)
    print(dict(seen))
    assert wrong == []
    taken = sum(count for what, count in seen.items() if what.endswith(" taken"))
    refused = sum(count for what, count in seen.items() if what.endswith(" refused"))
    assert taken + refused >= 200
    assert taken >= 40
    assert refused >= 40
