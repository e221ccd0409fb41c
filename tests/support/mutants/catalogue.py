"""All mutations."""

from __future__ import annotations

from mutants import keeping, lives, planning, scale, walls, wiring
from mutants.mutation import Mutation

__all__ = ["CATALOGUE"]

CATALOGUE: tuple[Mutation, ...] = (
    *lives.MUTATIONS, *planning.MUTATIONS, *walls.MUTATIONS, *keeping.MUTATIONS,
    *wiring.MUTATIONS, *scale.MUTATIONS,
)  # fmt: skip
