"""The operator's notebook: two ConfigMaps in its own namespace, read for plans, written by runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from qwenft_operator import names
from qwenft_operator.advice import LESSONS, NO_ADVICE, PLANNER, Advice
from qwenft_operator.experience import Finding
from qwenft_operator.port import Cluster, Conflict, Refused
from qwenft_plan.lessons import Lessons

__all__ = ["Notebook"]

_TRIES = 5

logger = logging.getLogger(__name__)


class Notebook:
    """Advice for plans, and the lessons of finished runs."""

    def __init__(self, cluster: Cluster, *, namespace: str, name: str, learns: bool = True) -> None:
        """``namespace`` and ``name`` are the operator's own; an empty one means no notebook."""
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._learns = learns and bool(namespace)
        self._writing = asyncio.Lock()
        self._warned: set[str] = set()

    async def advice(self) -> Advice:
        """Return what is to be taken into account now; nothing where it may not be read."""
        if not self._namespace:
            return NO_ADVICE
        try:
            planner = await self._read(PLANNER)
            lessons = await self._read(LESSONS) if self._learns else None
        except Refused as refusal:
            self._warn((f"planning without prices and lessons: {refusal}",))
            return NO_ADVICE
        advice = Advice.of(_data(planner), _data(lessons))
        self._warn(advice.warnings)
        return advice

    async def record(self, finding: Finding) -> bool:
        """Add what a run taught, if it is not there yet; return whether the run is done with.

        Raises :class:`Conflict` if somebody else keeps writing, :class:`Unavailable` as all do.
        """
        if not self._learns:
            return False
        if not finding.experience.is_sane:
            return True
        async with self._writing:
            for _ in range(_TRIES):
                try:
                    await self._add(finding)
                except Conflict:
                    continue
                except Refused as refusal:
                    self._warn((f"a finished run is not learnt from: {refusal}",))
                    return False
                return True
        raise Conflict(f"{self._name}-{LESSONS} changes all the time")

    async def _add(self, finding: Finding) -> None:
        """Write the lessons with one more run; the version read is the only one replaced.

        The ConfigMap is made empty: what is applied to it later belongs to the applier, who can
        then forget it.
        """
        body = await self._read(LESSONS)
        if body is None:
            await self._cluster.create(self._manifest({}))
            body = await self._read(LESSONS) or {}
        before = Lessons.from_data(_data(body))
        after = before.after(finding.kind, finding.experience)
        if after == before:
            return
        version = str((body.get("metadata") or {}).get("resourceVersion", ""))
        await self._cluster.apply(self._manifest(after.to_data(), version=version))
        logger.info("learnt from run %s of kind %s", finding.experience.run, finding.kind)

    async def _read(self, ending: str) -> Mapping[str, Any] | None:
        return await self._cluster.get("ConfigMap", self._namespace, f"{self._name}-{ending}")

    def _manifest(self, data: Mapping[str, str], version: str = "") -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "name": f"{self._name}-{LESSONS}",
            "namespace": self._namespace,
            "labels": {names.LABEL_NAME: "qwenft", names.LABEL_MANAGED_BY: names.FIELD_MANAGER},
        }
        if version:
            metadata["resourceVersion"] = version
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": dict(data),
        }

    def _warn(self, warnings: tuple[str, ...]) -> None:
        """Say each thing once a process: plans are made often."""
        for text in warnings:
            if text not in self._warned:
                self._warned.add(text)
                logger.warning("%s: %s", self._name, text)


def _data(body: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (body or {}).get("data") or {}
    return found
