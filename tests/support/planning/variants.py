"""How people print the same run: other words for what a column of a measured run means.

`variants(columns)` yields a column, other spellings of its cell and of the columns beside it that
must give the very same estimate. Read off what torchtune, torchtitan, Megatron-LM, NeMo, MosaicML,
DeepSpeed, LLaMA-Factory, Unsloth, Primus and cloud vendors' tables print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

EMPTY = ("", None, float("nan"), "-", "—", "n/a", "N/A", "nan", "null")

GPUS = {
    "A100-80GB": (
        "A100-80GB", "A100 80GB", "A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB", "8xA100-80GB",
        "8x A100 80GB", "a100_80g", "A100 (80GB)", "DGX A100 80GB", "A100 SXM 80 GB",
        "NVIDIA A100 80 GiB", "8 × A100 80G",
    ),
    "A100-40GB": (
        "A100-40GB", "A100-SXM4-40GB", "NVIDIA-A100-SXM4-40GB", "A100 40G", "16xA100-40GB",
        "A100 (40 GB)",
    ),
    "H100-80GB": (
        "H100", "H100-80GB", "H100 SXM5", "NVIDIA H100 80GB HBM3", "H100-SXM5-80GB", "8xH100",
        "DGX H100", "HGX H100", "DGX-H100", "h100sxm", "NVIDIA_H100_80GB_HBM3", "H100 SXM 80GB",
    ),
    "H100-PCIe-80GB": ("H100 PCIe", "H100-PCIE-80GB", "NVIDIA H100 PCIe", "PCIe H100 80GB"),
    "H200-141GB": ("H200", "NVIDIA H200", "H200-SXM-141GB", "8xH200", "DGX H200"),
    "B200-180GB": ("B200", "NVIDIA B200", "DGX B200", "B200-SXM-180GB", "8xB200", "B200 (180GB)"),
    "GB200-186GB": ("GB200", "GB200 NVL72", "DGX-GB200", "NVIDIA GB200"),
    "MI300X-192GB": ("MI300X", "AMD Instinct MI300X", "AMD_Instinct_MI300X_OAM", "8x MI300X"),
    "RTX4090-24GB": ("RTX 4090", "GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "4090", "1x4090"),
    "L40S-48GB": ("L40S", "NVIDIA L40S", "L40S 48GB"),
}  # fmt: skip
"""Device of the table → as people print it."""

FRAMEWORKS = {
    "megatron": (
        "Megatron-LM", "Megatron-Core", "megatron-lm core 0.8", "mcore", "NVIDIA Megatron",
        "Megatron-LM (TP+PP)", "nanotron", "Primus (Megatron backend)", "GPT-NeoX", "MindSpeed-LLM",
    ),
    "nemo": ("NeMo", "NeMo 2.0", "NeMo/Megatron-Core", "DGXC recipe (NeMo)", "NeMo 24.09"),
    "torchtitan": (
        "torchtitan", "TorchTitan", "torchtitan(FSDP2)", "PyTorch FSDP2", "FSDP2 eager",
        "Primus (torchtitan backend)", "NeMo AutoModel", "fms-fsdp", "torch-titan",
    ),
    "torchtune": ("torchtune", "TorchTune", "torchtune full_finetune_distributed", "torch tune"),
    "composer": ("LLM Foundry", "llm-foundry/Composer FSDP1", "MosaicML Composer", "llm_foundry"),
    "fsdp": (
        "PyTorch FSDP", "FSDP1", "Lightning FSDP", "litgpt", "lit-gpt", "Lightning Fabric",
        "Fully Sharded Data Parallel", "HF accelerate FSDP",
    ),
    "deepspeed": (
        "DeepSpeed", "HF Trainer", "Hugging Face Trainer", "transformers Trainer", "TRL SFTTrainer",
        "LLaMA-Factory", "LLaMA Factory", "llama_factory", "XTuner", "Colossal-AI", "axolotl",
        "PEFT", "DeepSpeed-Chat",
    ),
    "ms-swift": ("ms-swift", "SWIFT", "ms-swift/HF"),
    "internevo": ("InternEvo", "InternEvo v0.2"),
    "qwenft": ("qwenft", "QwenFT 0.3", *EMPTY),
}  # fmt: skip
"""Runtime → as people print it."""

PRECISIONS = {
    "bf16_mixed": (
        "bf16", "BF16", "bf16_mixed", "bf16-mixed", "mixed bf16", "AMP", "amp_bf16", "bfloat16",
        "fp16", "fp16_mixed", "bf16 (fp32 master weights)", "BF16 mixed precision", "bf16, no fp8",
        "bf16 (w/o fp8)", "16-mixed", "bf16 (fp8 disabled)", *EMPTY,
    ),
    "bf16_pure": ("bf16_pure", "pure bf16", "bf16-true", "pure_bf16", "full bf16", "bf16 only"),
    "fp8": (
        "fp8", "FP8", "FP8 (hybrid)", "fp8 delayed scaling", "float8", "float8 tensorwise", "MXFP8",
        "e4m3", "bf16+fp8", "fp8-mixed",
    ),
    "fp32": ("fp32", "FP32", "float32", "TF32", "tf32", "full precision", "32-true"),
}  # fmt: skip

RECOMPUTES = {
    "none": (
        "none", "None", "no", "No", "off", "OFF", "false", "False", False, "0", 0, "disabled",
        "no recompute", "no activation checkpointing", "without checkpointing", "w/o AC",
        "gradient_checkpointing=False", "checkpointing: off", "AC disabled", "not used",
        "recompute=none", *EMPTY,
    ),
    "selective": (
        "selective", "Selective", "granular:selective", "selective(core_attn)", "selective AC",
        "SAC", "op SAC", "selective(attention)", "partial", "every 2nd layer", "16/32 layers",
        "core attention", "recompute_granularity=selective",
    ),
    "full": (
        "full", "Full", "FULL", "full AC", "true", "True", True, "yes", "on", "1", 1, "enabled",
        "full(uniform 1)", "granular:full", "uniform", "block", "gradient checkpointing",
        "activation checkpointing", "use_checkpoint=True", "recompute_granularity=full",
        "all layers",
        "activation recomputation", "full (no offload)", "GC on",
    ),
}  # fmt: skip

SHARDINGS = {
    0: ("0", "ZeRO-0", "DDP", "NO_SHARD", "none", "no", "stage 0", "zero0", "not sharded"),
    1: (
        "1", 1, 1.0, "1.0", "ZeRO-1", "zero1", "ZeRO 1", "zero_1", "stage=1", "stage: 1", "Z1",
        "ZeRO-1 dist-opt", "distributed optimizer", "dist-opt", "ZeRO stage 1", "True",
        "use_distributed_optimizer", "1 (dist opt)",
    ),
    2: ("2", "ZeRO-2", "zero2", "SHARD_GRAD_OP", "ZeRO-2(SHARD_GRAD_OP)", "stage 2",
        "reshard_after_forward=False"),
    3: (
        "3", "ZeRO-3", "zero3", "FULL_SHARD", "ZeRO-3(FULL_SHARD)", "FSDP", "fsdp2", "full shard",
        "DeepSpeed ZeRO stage 3", "ds_z3", "ZeRO++", "ZeRO-Infinity", "Fully Sharded", "3.0",
    ),
}  # fmt: skip

MODELS = {
    "Qwen2.5-7B": (
        "Qwen2.5-7B", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b", "Qwen2.5 7B",
        "qwen2.5-7b-instruct", "Qwen2.5-Coder-7B",
    ),
    "Qwen1.5-14B": (
        "Qwen1.5-14B", "Qwen/Qwen1.5-14B-Chat", "Qwen-14B-Chat", "Qwen-14B", "qwen 14b",
    ),
    "Llama-3-8B": (
        "Llama-3-8B", "llama-3-8b", "meta-llama/Meta-Llama-3-8B", "Llama 3 8B", "llama3-8b",
        "meta-llama/Llama-3.1-8B-Instruct", "LLaMA3.1 8B", "DeepSeek-R1-Distill-Llama-8B",
    ),
    "Llama-2-7B": (
        "Llama-2-7B", "Llama2-7b", "meta-llama/Llama-2-7b-hf", "LLaMA-7B", "llama 2 7B",
        "huggyllama/llama-7b", "vicuna-7b-v1.5",
    ),
    "Llama-3.1-70B": ("Llama-3.1-70B", "Llama 3.3 70B", "meta-llama/Llama-3.1-70B-Instruct"),
}  # fmt: skip

KINDS = {
    "full": (
        "pretrain", "sft", "sft-full", "full", "full fine-tuning", "CPT", "pretrain/sft", *EMPTY,
    ),
    "lora": ("lora", "LoRA", "LoRA r=8", "lora sft", "DoRA", "PEFT LoRA", "LoRA (bf16)"),
    "qlora": ("qlora", "QLoRA", "QLoRA (nf4)", "LoRA 4-bit", "4bit LoRA", "LoRA (int4)"),
}  # fmt: skip

NUMBERS = (
    "8192",
    8192,
    8192.0,
    "8192.0",
    " 8192 ",
    "8,192",
    "8192 (8k)",
    "8.192e3",
    "8192(paper)",
    "8192 tokens",
)
NO_NUMBERS = (
    "8k",
    "8K",
    "eight",
    "8192 x 2",
    "8192 * 2",
    "8 million",
    "8.5",
    "-8192",
    "8_192",
    "8192x",
    "4096+4096",
)

REFUSED = {
    "model": ("Mixtral-8x7B", "Llama-4-Scout-17B-16E", "Llama 4 Maverick", "DeepSeek-R1",
              "Kimi-K2", "Qwen3-235B-A22B", "Llama-3.2-11B-Vision", "Qwen2.5-VL-7B"),
    "gpu": ("TPU v4", "Gaudi2", "Ascend 910B", "K80", "GPU", "H1000"),
    "recompute": ("maybe", "see text", "xyz"),
    "precision": ("int7", "posit", "see text"),
    "zero": ("something", "see text", "ZeRO-7"),
    "kind": ("DPO", "GRPO", "reward modelling", "prefix tuning", "LoRA int8", "inference"),
    "optimizer": ("Adafactor", "SGD", "Lion", "Muon"),
}  # fmt: skip
"""Column → what must be an error that names it."""

_SPELLINGS: tuple[tuple[str, Iterable[tuple[object, ...]]], ...] = (
    ("gpu", GPUS.values()),
    ("framework", FRAMEWORKS.values()),
    ("precision", PRECISIONS.values()),
    ("recompute", RECOMPUTES.values()),
    ("zero", SHARDINGS.values()),
    ("model", MODELS.values()),
    ("kind", KINDS.values()),
)


def variants() -> Iterator[tuple[str, object, object]]:
    """Yield (column, first spelling, another spelling of the same)."""
    for column, groups in _SPELLINGS:
        for spellings in groups:
            for other in spellings[1:]:
                yield column, spellings[0], other
