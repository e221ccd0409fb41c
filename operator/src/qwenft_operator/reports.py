"""The newest progress report of each run: a cache, lost on a restart and refilled in seconds."""

from __future__ import annotations

from qwenft_plan.progress import Progress

__all__ = ["Reports"]


class Reports:
    """Reports by the uid of the run, and the attempt below which none is taken any more."""

    def __init__(self) -> None:
        self._newest: dict[str, Progress] = {}
        self._fences: dict[str, int] = {}

    def fence(self, uid: str, attempt: int) -> None:
        """Refuse reports of attempts before ``attempt`` from now on."""
        self._fences[uid] = max(attempt, self._fences.get(uid, 0))
        newest = self._newest.get(uid)
        if newest is not None and newest.attempt < attempt:
            del self._newest[uid]

    def put(self, uid: str, progress: Progress) -> bool:
        """Keep the report; False if its attempt is fenced off. An older step is ignored."""
        if progress.attempt < self._fences.get(uid, 0):
            return False
        newest = self._newest.get(uid)
        if newest is None or (newest.attempt, newest.step) <= (progress.attempt, progress.step):
            self._newest[uid] = progress
        return True

    def newest(self, uid: str) -> Progress | None:
        """Return the newest report of the run."""
        return self._newest.get(uid)

    def forget(self, uid: str) -> None:
        """Drop what is known of a run that is over or gone; its fence goes with the last of it."""
        self._newest.pop(uid, None)
        self._fences.pop(uid, None)
