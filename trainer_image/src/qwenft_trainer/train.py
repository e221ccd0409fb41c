"""The built-in loop: what one rank of a fine-tune does, from top to bottom.

    QWENFT_PLAN=plan.json QWENFT_RUN=run.json python -m qwenft_trainer --nproc-per-node=2

It reads the plan and the request, builds this rank's part of the model, resumes from the newest
checkpoint that is whole, and then repeats: rows, forward and backward, clip, step. All ranks
decide alike at each step (stop, go on, save), because what they decide on was reduced over all.
"""

import math
import os
import time
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from qwenft_trainer import converted, planfile, trackers, transfer
from qwenft_trainer.best import Best, export_best
from qwenft_trainer.checkpoint import CheckpointStore
from qwenft_trainer.checkpoint_files import figure
from qwenft_trainer.export import export_result
from qwenft_trainer.failure import DatasetInvalid, NumericError, Preempted
from qwenft_trainer.feed import build_feed
from qwenft_trainer.generate import speak
from qwenft_trainer.mesh import SET_UP, build_mesh, data_index, pick_device
from qwenft_trainer.meter import Meter
from qwenft_trainer.model import check_config, read_config
from qwenft_trainer.optim import build_optimizer, due, learning_rate, set_learning_rate, total_steps
from qwenft_trainer.preemption import StopSignal
from qwenft_trainer.remote_checkpoints import Mirror
from qwenft_trainer.report import Reporter
from qwenft_trainer.run import Run, say
from qwenft_trainer.saver import Saver
from qwenft_trainer.settings import Settings, read_settings
from qwenft_trainer.software import environment
from qwenft_trainer.sources import find_model, source_of
from qwenft_trainer.stages import build_stages
from qwenft_trainer.watchdog import FILES, Watchdog
from qwenft_trainer.weights import Fresh


def main() -> None:
    """Run one rank; raises a :class:`TrainerError` whose exit code says why it ended early."""
    settings = read_settings()
    torch.manual_seed(settings.spec.training.seed)
    with StopSignal() as stop:
        device = pick_device()
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=SET_UP)
        run = prepare(settings, stop)
        with run.watchdog:
            train(run)
        dist.destroy_process_group()


def prepare(settings: Settings, stop: StopSignal) -> Run:
    """Check all inputs, build the model, and resume; nothing is trained yet."""
    spec, plan, began = settings.spec, settings.plan, time.monotonic()
    trackers.check(spec.training.report_to)
    mesh = build_mesh(plan, pick_device().type)
    directory = find_model(spec.model, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    config = read_config(directory)
    check_config(config, spec.model.config)
    say(f"reading {spec.dataset.path}")
    splits = converted.load_once(
        transfer.dataset_path(settings),
        settings.converted,
        apart=settings.converts_apart,
        vocab_size=int(config.vocab_size),
        warn=partial(print, flush=True),
    )
    options = {"seed": spec.training.seed, "sequence_length": spec.training.sequence_length}
    training = build_feed(splits.train, plan, mesh, **options)
    total = total_steps(spec.training, len(splits.train))
    validation = None
    if splits.validation is not None:
        validation = build_feed(splits.validation, plan, mesh, **options)
    source = source_of(directory, seed=spec.training.seed)
    if isinstance(source, Fresh):
        say(f"{directory} has a config but no weights: the model starts from random ones")
    say(f"loading {directory}: {plan.world_size} ranks, pp {plan.pp} × dp {plan.dp} × tp {plan.tp}")
    backend, lora = planfile.compiler(plan, os.environ), spec.training.adapters
    stages = build_stages(plan, mesh, config, source, compile_backend=backend, lora=lora)
    say(f"the model is in place after {time.monotonic() - began:.1f} s")
    remote = settings.remote
    mirror = None if remote is None else Mirror(store=remote, directory=settings.checkpoints)
    store = CheckpointStore(
        directory=settings.checkpoints,
        identity=settings.identity,
        attempt=settings.attempt,
        keep=spec.checkpoint.keep,
        keep_best=spec.checkpoint.keep_best,
        before_step=settings.before_step,
        mirror=mirror,
        warn=say,
    )
    meter = Meter(settings, total=total, reporter=Reporter() if dist.get_rank() == 0 else None)
    run = Run(
        settings=settings,
        stages=stages,
        optimizer=build_optimizer(stages, spec.training),
        store=store,
        saver=Saver(store),
        training=training,
        validation=validation,
        total=total,
        meter=meter,
        stop=stop,
        watchdog=Watchdog(lambda: meter.step_seconds),
        model_source=directory,
    )
    resume(run)
    return run


def resume(run: Run) -> None:
    """Go on from the newest whole checkpoint, whatever plan wrote it."""
    run.store.claim()
    restored = run.store.restore(run.stages, run.optimizer)
    run.step, notes = restored.step, restored.notes
    run.saver.begun = run.saver.published = restored.step or None
    run.before = figure(notes, "validationLossBefore")
    run.lowest = figure(notes, "lowestValidationLoss")
    run.trained_tokens = int(figure(notes, "trainedTokens") or 0)
    run.seconds_before = figure(notes, "seconds") or 0.0
    if run.step:
        say(f"resumed after step {run.step} of {run.total}")


def train(run: Run) -> None:
    """Train from where the run is to its end, then export the model and report the result."""
    spec = run.settings.spec
    if run.before is None:
        run.before = evaluate(run)
    # What it goes on from is told before anything can end badly: nobody knows yet of a save that
    # was made on the way out.
    run.meter.start(step=run.step, validation_loss=run.before, **run.saver.figures())
    loss = math.nan
    while run.step < run.total:
        loss = train_step(run)
        stop, unsaved = run.stop.anywhere(also=run.saver.failed)
        if unsaved:
            run.saver.fail()
        if stop:
            save(run, wait=True)
            run.meter.close()
            raise Preempted(f"asked to stop; saved after step {run.step}", step=run.step)
        if due(run.step, spec.training.evaluate_every_steps) and run.step < run.total:
            validate(run)
        if due(run.step, spec.checkpoint.every_steps):
            save(run)
    finish(run, loss)


def train_step(run: Run) -> float:
    """Do one optimizer step and report it; returns the mean loss of the global batch."""
    training = run.settings.spec.training
    run.watchdog.beat(f"training step {run.step + 1}")
    samples = run.training.samples(run.step)
    trained = run.training.trained_tokens(samples)
    if trained == 0:
        raise DatasetInvalid(f"step {run.step + 1} trains no token: samples {samples[:8]}")
    rate = learning_rate(training, run.step, run.total)
    set_learning_rate(run.optimizer, rate)
    if training.adapters is not None:
        # What dropout draws: another mask on each data rank, the same one after a restart.
        torch.manual_seed(hash((training.seed, run.step, data_index(run.stages.mesh))))
    with run.meter.waiting():
        batch = run.training.rows(samples)
    loss = run.stages.train_step(batch, trained_tokens=trained)
    norm = run.stages.clip(training.max_grad_norm or math.inf)
    loss_value, norm_value = torch.stack((loss, norm)).tolist()
    if not math.isfinite(loss_value) or not math.isfinite(norm_value):
        run.saver.wait()
        raise NumericError(
            f"loss {loss_value}, gradient norm {norm_value} in step {run.step + 1} "
            f"(samples {', '.join(map(str, samples[:8]))}, …); weights were left as they were",
            step=run.step + 1,
        )
    run.optimizer.step()
    run.stages.zero_grad()
    run.step += 1
    run.trained_tokens += trained
    run.meter.stepped(
        step=run.step,
        epoch=run.step / run.training.steps_per_epoch,
        loss=loss_value,
        gradient_norm=norm_value,
        learning_rate=rate,
        tokens=run.training.tokens(samples),
        **run.saver.figures(),
    )
    return float(loss_value)


def evaluate(run: Run) -> float | None:
    """Return the mean loss over the validation split, or None without one. Collective."""
    if run.validation is None:
        return None
    with run.meter.paused():
        total, count = 0.0, 0
        for samples in run.validation.chunks():
            run.watchdog.beat("evaluating")
            total += float(run.stages.loss_sum(run.validation.rows(samples)))
            count += run.validation.trained_tokens(samples)
    return total / max(1, count)


def validate(run: Run) -> None:
    """Evaluate on the way; where it is the best so far and that is kept, save. Collective."""
    loss = evaluate(run)
    run.meter.validated(loss)
    better = loss is not None and (run.lowest is None or loss < run.lowest)
    if run.settings.spec.checkpoint.keep_best and better:
        run.lowest = loss
        save(run, validationLoss=loss)


def save(run: Run, *, wait: bool = False, **notes: object) -> None:
    """Save unless this step was; ``wait`` until the files are whole. Collective."""
    run.watchdog.beat("saving", patience=FILES)
    run.stages.wait_long()
    with run.meter.paused():
        if run.saver.begun == run.step:
            if wait:
                run.saver.wait()
            return
        run.saver.save(
            run.stages,
            run.optimizer,
            run.step,
            wait=wait,
            validationLossBefore=run.before,
            trainedTokens=run.trained_tokens,
            seconds=run.elapsed(),
            lowestValidationLoss=run.lowest,
            **notes,
        )


def finish(run: Run, loss: float) -> None:
    """Export, evaluate, let the model speak, and write ``result.json``. Collective."""
    settings, spec = run.settings, run.settings.spec
    save(run)
    after = evaluate(run)
    save(run, wait=True)
    run.watchdog.beat("exporting the model", patience=FILES)
    export = partial(export_result, run.stages, settings=settings, source=run.model_source)
    export(settings.result_directory)
    text = speak(run.stages, (run.validation or run.training).dataset, run.model_source)
    if text is not None:
        say(f"sample: {text['prompt']!r} -> {text['continuation']!r}")
    result: dict[str, Any] = {
        "validationLossBefore": run.before,
        "validationLossAfter": after,
        "finalLoss": None if math.isnan(loss) else loss,
        "steps": run.step,
        "trainedTokens": run.trained_tokens,
        "tokensPerSecond": run.meter.tokens_per_second,
        "memoryGiB": run.meter.memory_gib,
        "seconds": run.elapsed(),
        "outputPath": settings.told(settings.result_directory),
        "environment": environment(),
        "sample": text,
    }
    if spec.checkpoint.keep_best:
        last = Best(step=run.step, validation_loss=after, path=settings.result_directory)
        best = export_best(run.store, run.stages, run.optimizer, last, settings, export)
        result |= best.to_mapping() | {"bestPath": settings.told(best.path)}
    if dist.get_rank() == 0:
        # From here on nobody waits for rank 0, however long the sending takes.
        result |= transfer.deliver(settings, result, run.watchdog)
        losses = [f"{value:.4g}" for value in (run.before, after) if value is not None]
        say(f"finished {run.step} steps; validation loss {' -> '.join(losses) or 'not measured'}")
    run.meter.finish(result, validation_loss=after, step=run.step, **run.saver.figures())
    if dist.get_rank() == 0:
        transfer.send_logs(settings)
