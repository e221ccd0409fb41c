"""Plans for fine-tuning runs: pure functions over frozen values, standard library only.

The pieces are imported by module (``from qwenft_plan.spec import FinetuneSpec``), so that a rank
that only reads a plan file does not load the planner.
"""
