"""What `make bench-gpu` measures."""

from gpu.case import Case

SMALL, MIDDLE, LARGE = "Qwen2.5-0.5B", "Qwen3-4B", "Qwen2.5-7B"
CASES: tuple[Case, ...] = (
    Case(model=SMALL, rows=4),
    Case(model=SMALL, rows=4, compile=True),
    Case(model=SMALL, rows=4, packing=4),
    Case(model=SMALL, rows=4, packing=4, compile=True),
    Case(model=SMALL, rows=4, who="hf"),
    Case(model=SMALL, rows=4, who="hf", compile=True),
    Case(model=SMALL, rows=8, length=2048, checkpointing="selective"),
    Case(model="Qwen2.5-1.5B", rows=4, offload=True),
    Case(model="Qwen2.5-3B", length=8192, accumulation=4, compile=True),
    Case(model=MIDDLE, rows=2, accumulation=2),
    Case(model=MIDDLE, rows=4, checkpointing="selective"),
    Case(model=MIDDLE, rows=2, accumulation=8, compile=True, profiled=True),
    Case(model=MIDDLE, rows=2, accumulation=8, compile=True, precision="fp8"),
    Case(model=MIDDLE, accumulation=4, who="hf"),
    Case(model=LARGE, rows=2, method="lora"),
    Case(model=LARGE, rows=2, method="lora", accumulation=4, compile=True),
    Case(model=LARGE, rows=2, method="qlora"),
    Case(model=LARGE, rows=4, optimizer="adamw8bit", checkpointing="full"),
)
