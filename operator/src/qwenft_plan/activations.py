"""What autograd keeps between forward and backward, and the logits at the loss.

Per token and block in bf16 on HF modules: `16h + 4(ad + kd) + 4a + 8f` bytes, exact to four
digits by saved-tensor hooks (h hidden, a heads of dimension d, k key/value heads, f feed-forward):
each norm keeps an fp32 copy (8h), attention its inputs, output and log-sum-exp, the gate four
tensors. Fused kernels keep `8h` and `6f`. Attention without a flash kernel adds `6as`.
"""

from __future__ import annotations

from qwenft_plan.workload import Layout, Workload

__all__ = [
    "differentiates_at_loss",
    "head_input_bytes",
    "in_flight",
    "logit_bytes",
    "recompute_peak",
    "saved_bytes",
    "tokens",
    "whole_block",
]

_PLAIN_NORM = 0.625  # of what a norm keeps in bf16, where its fp32 copy counts
_HIDDEN_MODULES = 16.0  # bytes per hidden unit that two norms of unfused modules keep
_HEAD_NORM = 6.0  # bytes per column of queries and keys that an unfused norm of heads keeps
_CHUNK = 16.0  # bytes per element of the loss's input in fp32: itself, chosen, and gradients
_CHOSEN = 4.0  # bytes per element of the rows that are trained on, and of their gradient
_CHUNK_TOKENS = 512  # tokens whose logits the own trainer computes at once
_CHUNK_LOGIT = 12.0  # bytes per logit of a chunk in bf16: itself, its gradient, and both in fp32
_PLAIN_CHUNK_LOGIT = 4.0  # the same in fp32, where the gradients take the logits' place
_CHUNKED_LOGIT = 2.0  # bytes per logit, of all of them, when the loss runs in chunks


def tokens(work: Workload, layout: Layout) -> float:
    """Return the tokens that one rank handles in one micro-batch."""
    return work.sequence_length * layout.micro_batch / layout.cp


def in_flight(layout: Layout, stage: int) -> float:
    """Return how many micro-batches' activations `stage` holds, in units of its whole depth."""
    if layout.pp == 1 or layout.schedule == "naive":
        return 1.0
    micro_batches = float(layout.accumulation)
    if layout.schedule == "GPipe":
        return micro_batches
    if layout.schedule == "ZBVZeroBubble":
        return min(micro_batches, float(layout.pp))
    chunks = layout.virtual_stages
    if chunks > 1:
        held = (layout.pp - stage - 1) * 2 + (chunks - 1) * layout.pp + 1
        return min(micro_batches, held / chunks)
    return min(micro_batches, float(layout.pp - stage))


def whole_block(work: Workload, layout: Layout) -> float:
    """Return the bytes that autograd keeps of one block for one token without checkpointing."""
    model, runtime = work.model, work.runtime
    widths = model.attention_width + model.kv_width
    gate = runtime.saved_ffn if model.gated else runtime.saved_plain
    inner = runtime.saved_attention * widths + 4 * model.heads + gate * model.ffn
    if not work.flash:
        inner += 6.0 * model.heads * work.sequence_length / layout.cp
    norms = runtime.saved_hidden * model.hidden
    inner += _head_norms(work)
    if work.precision == "fp32":
        norms *= _PLAIN_NORM  # no copy in another width
    if work.method.kind != "full":
        spared, spared_inner = _spared(work)
        norms, inner = norms - spared, inner - spared_inner
    gathered = 4.0 * model.hidden * (1 - 1 / layout.tp) if runtime.keeps_gathered else 0.0
    if work.compiled:
        norms, inner = 0.5 * norms, inner - 0.25 * gate * model.ffn
    return _scale(work) * (norms / _norm_split(work, layout) + inner / layout.tp + gathered)


def _head_norms(work: Workload) -> float:
    """Bytes that norms of queries and keys keep of one block for one token.

    Unfused, an fp32 copy and, where its weight is trained, the normalised row; compiled, the input.
    """
    if not work.model.qk_norm:
        return 0.0
    kept = _HEAD_NORM if work.method.kind == "full" else _HEAD_NORM - 2.0
    share = work.runtime.saved_hidden / _HIDDEN_MODULES
    if work.precision == "fp32":
        share *= _PLAIN_NORM
    width = 2.0 if work.compiled else kept * share
    return width * (work.model.attention_width + work.model.kv_width)


def saved_bytes(work: Workload, layout: Layout) -> float:
    """Return the bytes kept of one block for one token until its backward."""
    boundary = _scale(work) * 2.0 * work.model.hidden / _norm_split(work, layout)
    if layout.checkpointing == "full":
        return boundary
    whole = whole_block(work, layout)
    if layout.checkpointing == "none":
        return whole
    kept = _selective(work, layout)
    # Products are kept although no frozen weight needs them, so adapters gain nothing by it.
    return min(whole, kept) if work.method.kind == "full" else kept


def recompute_peak(work: Workload, layout: Layout) -> float:
    """Return the bytes per token of the one block that is alive in backward."""
    share = 1.35 if layout.checkpointing == "full" else 0.45
    return share * whole_block(work, layout)


def logit_bytes(work: Workload, layout: Layout) -> float:
    """Return the bytes of logits, loss and their gradients at the peak of the last stage."""
    model, count = work.model, tokens(work, layout)
    if work.runtime.chunked_loss and layout.tp == 1 and work.fused_loss is not False:
        # Either way the weight's gradient is whole: the chunks add to it.
        trained = model.embedding_parameters if work.method.kind == "full" else 0
        gradient = float(work.element_bytes * trained)
        logits = min(count, _CHUNK_TOKENS) * model.vocab
        if work.precision != "fp32":
            return _CHUNK_LOGIT * logits + gradient
        return _PLAIN_CHUNK_LOGIT * logits + _CHUNK * count * model.hidden + gradient
    per_logit = work.runtime.logit if layout.tp == 1 else work.runtime.split_logit
    if work.fused_loss:
        per_logit = min(per_logit, _CHUNKED_LOGIT)
    return per_logit * count * model.vocab / layout.tp


def differentiates_at_loss(work: Workload, layout: Layout) -> bool:
    """Whether the loss computes its gradients with itself, before backward, as the own one does."""
    chunks = work.runtime.chunked_loss and layout.tp == 1 and work.fused_loss is not False
    return chunks and work.precision != "fp32"


def head_input_bytes(work: Workload, layout: Layout) -> float:
    """Return the bytes of the last norm, of its output gathered, and of that one's gradient."""
    norm = work.runtime.saved_hidden / 2 / _norm_split(work, layout)
    chosen = _CHOSEN if differentiates_at_loss(work, layout) else 0.0
    return tokens(work, layout) * work.model.hidden * _scale(work) * (norm + 4.0 + chosen)


def _selective(work: Workload, layout: Layout) -> float:
    """Bytes that selective checkpointing keeps of one block for one token."""
    model, kind = work.model, work.runtime.selective
    hidden, query, keys = model.hidden, model.attention_width, model.kv_width
    ffn = (2 if model.gated else 1) * model.ffn
    if kind == "attention":
        scores = 0.0 if work.flash else 6.0 * model.heads * work.sequence_length / layout.cp
        return whole_block(work, layout) - _scale(work) * scores / layout.tp
    products = 2.0 * (query + 2 * keys + 2 * hidden + ffn + _adapter_outputs(work))
    kept = products if kind == "products" else products / 2
    inner = kept + 2 * query + 4 * model.heads
    return _scale(work) * (inner / layout.tp + 2.0 * hidden / _norm_split(work, layout))


def _spared(work: Workload) -> tuple[float, float]:
    """Return what frozen weights need not keep, of `hidden` and of the feed-forward's width.

    Only a trained weight's gradient needs its input: a norm's normalised row (2h), the input of
    gate and up (2h) and that of down (2f); those of an adapted matrix are its adapter's inputs.
    """
    hidden_share = work.runtime.saved_hidden / _HIDDEN_MODULES
    adapted = set(work.method.adapted)
    rows = 4.0 + (0.0 if adapted & {"gate_proj", "up_proj"} else 2.0)
    gate = work.runtime.saved_ffn if work.model.gated else work.runtime.saved_plain
    inner = 0.0 if "down_proj" in adapted else gate * work.model.ffn / 4
    return rows * work.model.hidden * hidden_share, inner


def _adapter_outputs(work: Workload) -> float:
    """Return the numbers per token that a block's adapters put out: products like the others."""
    model, method = work.model, work.method
    if method.kind == "full":
        return 0.0
    outputs = {
        "q_proj": model.attention_width,
        "k_proj": model.kv_width,
        "v_proj": model.kv_width,
        "o_proj": model.hidden,
        "gate_proj": model.ffn if model.gated else 0,
        "up_proj": model.ffn,
        "down_proj": model.hidden,
    }
    return float(sum(outputs[name] + method.rank for name in method.adapted))


def _scale(work: Workload) -> float:
    return work.element_bytes / 2


def _norm_split(work: Workload, layout: Layout) -> int:
    """Ranks over which norms and residuals are split."""
    return layout.tp if work.runtime.sequence_parallel else 1
