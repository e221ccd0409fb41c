"""What an attempt that runs is doing, in a phase, a reason and a sentence. Pure."""

from __future__ import annotations

from qwenft_operator import names
from qwenft_operator.observe import JobView, PodView
from qwenft_operator.policies import BEGINS_ANEW
from qwenft_operator.situation import Situation

__all__ = ["doing"]


def doing(situation: Situation, job: JobView, pods: tuple[PodView, ...]) -> tuple[str, str, str]:
    """Return phase, reason and message of an attempt that runs."""
    if job.suspended:
        return _queued(situation, job, pods)
    if situation.observed.trouble:
        return names.STARTING, "FailedCreate", f"no pods: {situation.observed.trouble}"
    unscheduled = [pod for pod in pods if pod.unscheduled]
    if unscheduled:
        pod = unscheduled[0]
        message = f"{len(unscheduled)} of {job.pods} pods find no node: {pod.unscheduled}"
        return names.STARTING, "Unschedulable", message
    waiting = next((pod for pod in pods if pod.waiting), None)
    if waiting is not None:
        where = f"pod {waiting.name} on {waiting.node}"
        return names.STARTING, waiting.waiting.split(":")[0], f"{where}: {waiting.waiting}"
    if _reported(situation):
        return names.TRAINING, "Training", f"attempt {job.attempt} trains on {_nodes(job.pods)}"
    running = sum(pod.phase == "Running" for pod in pods)
    message = f"attempt {job.attempt}: {running} of {job.pods} pods run; no step trained yet"
    return names.STARTING, "Starting", message


def _queued(situation: Situation, job: JobView, pods: tuple[PodView, ...]) -> tuple[str, str, str]:
    queue = situation.run.owner.queue
    by = f"queue {queue}" if queue else "queue"
    if situation.history.trained_attempt == job.attempt or pods:
        ending = f"; {len(pods)} pods are ending" if pods else ""
        then = BEGINS_ANEW if situation.has_script else "goes on from its checkpoint"
        message = f"preempted by the {by}: when admitted again {then}"
        return names.QUEUED, "Preempted", message + ending
    return names.QUEUED, "Queued", f"waiting for the {by} to admit Job {job.name}"


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def _reported(situation: Situation) -> bool:
    """Whether this attempt has reported, to this process or to one before it."""
    progress = situation.observed.progress
    known = (situation.run.status.get("progress") or {}).get("attempt")
    heard = None if progress is None else progress.attempt
    return situation.attempt in (known, heard)
