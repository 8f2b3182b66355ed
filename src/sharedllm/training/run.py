"""The training loop: micro-batches by number, optimizer step, log, validation, checkpoint. It resumes where it stopped."""

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import gather_object
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..data.rows import RowMaker, load_instructions
from ..data.shards import TokenStore
from ..utils.errors import UserError, first_of
from ..utils.files import write_text
from ..utils.hardware import peak_memory_mb
from .batches import Batch, Batches
from .checkpoint import check_resume, latest, load_checkpoint, save_checkpoint
from .curves import draw_curves
from .log import Log
from .losses import RowLosses, RowResults, autocast
from .output import check_output, write_model
from .parallel import distribute, make_accelerator
from .parts import add_lora, checkpoint_activations, frozen_in, learning_rates, make_optimizers, multiplier
from .recipe import Recipe
from .setup import check_model, decoder_layers, make_model, make_stores, make_tokenizer
from .stopping import Stopping
from .teacher import check_teacher
from .utilisation import Utilisation
from .validate import lengths_of, loss_before, validation_of
from .watch import NormWatch


def train(
    recipe: Recipe,
    *,
    max_steps: int | None = None,
    resume_from: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Train by a recipe, or resume an interrupted run.

    Returns:
        The folder of the trained model, or of the checkpoint if `max_steps` is reached before the end.

    Args:
        max_steps: stop with a checkpoint after this step; the schedule is still the recipe's.
        resume_from: a checkpoint to resume from; default: the last one in the output folder, if there is one.
        console: prints progress.

    Raises:
        UserError: the recipe, the data or a checkpoint can't be used, or the loss is not a number.
        KeyboardInterrupt: Ctrl-C; SystemExit: SIGTERM. After a checkpoint of the step in which they came, unless they come twice.
    """
    run = _Run(recipe, console, resume_from)
    last = min(recipe.steps, max_steps or recipe.steps)
    try:
        if run.step == 0:
            run.measure_base()
        with Stopping(run.say, run.accelerator.num_processes) as stopping:
            for step in range(run.step, last):
                run.train_step(step)
                done = step + 1
                if done % recipe.validation.every == 0 or done == recipe.steps:
                    run.validate(step)
                stop = stopping.agreed()
                if stop or done % recipe.checkpoint_every == 0 or done == last:
                    run.checkpoint(done)
                if stop:
                    break
            if stop := stopping.agreed():
                stopping.leave(stop)
    finally:
        if run.log is not None:
            run.log.close()
    if last < recipe.steps:
        return latest(run.checkpoints) or run.checkpoints
    if run.accelerator.is_main_process:
        draw_curves(run.output / "log.jsonl", run.output / "curves.png", f"{run.output.name}: {recipe.steps} steps")
    return write_model(run.accelerator, run.losses, run.tokenizer, run.output, recipe)


@dataclass
class _Totals:
    """Totals of one step on one process: (kind, loss) and (kind, divergence) of each row, and tokens."""

    rows: list[tuple[str, float]]
    divergences: list[tuple[str, float]]
    tokens: int = 0

    @staticmethod
    def by_kind(rows: list[tuple[str, float]]) -> dict[str, float]:
        """Mean of each kind, over all processes."""
        kinds: dict[str, list[float]] = {}
        for kind, loss in gather_object(rows):
            kinds.setdefault(kind, []).append(loss)
        return {kind: sum(values) / len(values) for kind, values in sorted(kinds.items())}


class _Run:
    """The state of a run, and the work of a step."""

    def __init__(self, recipe: Recipe, console: Console | None, resume_from: Path | None):
        self.recipe, self.accelerator = recipe, make_accelerator()
        main = self.accelerator.is_main_process
        self.console = console if main else None
        self.device = self.accelerator.device
        self.output = Path(recipe.output)
        self.checkpoints = self.output / "checkpoints"
        start = resume_from or latest(self.checkpoints)
        check_output(self.output)
        check_model(recipe)
        digests: dict[str, str] = {}
        with self.accelerator.main_process_first():
            self.tokenizer: PreTrainedTokenizerBase = make_tokenizer(recipe)
            training, self.validation = make_stores(recipe, self.tokenizer, self.say)
            digests = {name: _digest(store) for name, store in training.items()}
        self.digests = digests
        if start is not None:
            check_resume(start, recipe, digests)
        instructions = load_instructions(recipe.data.instructions)
        self.batches = Batches(recipe, training, RowMaker(self.tokenizer, "train", recipe.data.chat, instructions))
        self._report_short()
        world = self.accelerator.num_processes
        if self.batches.per_step % world:
            raise UserError(
                f"{self.batches.per_step} micro-batches per step can't be divided among {world} processes: change micro_tokens."
            )
        model = make_model(recipe, self.tokenizer)
        self.shared = isinstance(model, SharedLLMForCausalLM)
        self.config, self.window = model.config, getattr(model.config, "window", None)
        for name, store in self.validation.items():
            if left := lengths_of(recipe, store, self.window)[1]:
                self.say(f"{name}: no validation document has {left[0]} tokens of context; not measured: {left}")
        layers = decoder_layers(model)
        trained: nn.Module = add_lora(model, recipe.lora, recipe.train) if recipe.lora is not None else model
        if recipe.activation_checkpointing:
            # After peft, which else makes the embeddings need gradients too.
            checkpoint_activations(model)
        self.losses = RowLosses(trained.train(), recipe.distil, empty=recipe.control == "empty")
        rates = learning_rates(self.losses, recipe.train, model.config)
        if recipe.frozen == "bfloat16":
            frozen_in(self.losses, torch.bfloat16)
        if recipe.distil is not None:
            check_teacher(recipe, rates, model.config)
        self.wrapped = distribute(self.accelerator, self.losses, layers, recipe.precision)
        parameters = dict(self.losses.named_parameters())
        self.optimizers = make_optimizers(parameters, rates, recipe.optimizer, recipe.betas, recipe.weight_decay)
        self.live = [parameters[name] for name in rates]
        self.step = 0
        if start is not None:
            self.step = load_checkpoint(start, self.losses, self.optimizers)["step"]
            self.say(f"resuming from {start}")
        if main:
            self.output.mkdir(parents=True, exist_ok=True)
            write_text(self.output / "recipe.json", json.dumps(recipe.as_dict(), indent=1))
        self.log = Log(self.output, self.step, recipe.tensorboard, self.console) if main else None
        self.watch, self.utilisation = NormWatch(), Utilisation(self.device, recipe.precision, self.say)
        trainable = sum(p.numel() for p in self.live)
        together = f"; {world} processes" if world > 1 else ""
        self.say(
            f"{sum(p.numel() for p in parameters.values()):,} parameters, {trainable:,} of them trainable{together}"
        )

    def train_step(self, step: int) -> None:
        recipe, world = self.recipe, self.accelerator.num_processes
        mine = range(self.accelerator.process_index, self.batches.per_step, world)
        self._count_operations(step, mine)
        begin, busy = time.perf_counter(), self.utilisation.clock()
        totals, batch = _Totals([], []), None
        for micro in mine:
            batch = self.batches(step, micro)
            # Random numbers depend only on step and micro-batch, so that a run can resume anywhere.
            torch.manual_seed((recipe.seed * 1_000_003 + step) * 1_009 + micro)
            if micro == mine[-1]:
                self._forward_backward(step, batch, len(mine), totals)
            else:
                with self.accelerator.no_sync(self.wrapped):
                    self._forward_backward(step, batch, len(mine), totals)
        norm = float(_whole(nn.utils.clip_grad_norm_(self.live, recipe.clip)))
        if not math.isfinite(norm):
            self._not_finite(step, batch, f"the norm of the gradients is {norm}")
        if (ratio := self.watch(norm)) is not None:
            self.say(f"warning: step {step}: the norm of the gradients is {norm:.3g}, {ratio:.0f} times the usual")
        factor = multiplier(recipe.decay, step, recipe.steps, recipe.warmup)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * factor
            optimizer.step()
            optimizer.zero_grad()
        losses, divergences = totals.by_kind(totals.rows), totals.by_kind(totals.divergences)
        logged = step % recipe.log_every == 0 or step + 1 == recipe.steps
        # By every process, as those of a sharded model have to be gathered.
        gates = self._gates() if logged else []
        if self.log is not None and logged:
            seconds = time.perf_counter() - begin
            self.log.write(
                step=step,
                loss=losses,
                **({"divergence": divergences} if divergences else {}),
                gradient_norm=norm,
                learning_rate_factor=factor,
                **({"gates": gates} if gates else {}),
                tokens_per_second=totals.tokens * world / seconds,
                memory_mb=round(peak_memory_mb(self.device)),
                flop_utilisation=self.utilisation.of(self.batches.phase_of(step), len(mine), since=busy),
            )

    def _losses(self, batch: Batch) -> RowResults:
        """The losses of each row."""
        inputs = {name: tensor.to(self.device) for name, tensor in batch.tensors().items() if name != "weights"}
        with autocast(self.device, self.recipe.precision):
            strides = (batch.strides or None) if self.shared else None
            return self.wrapped(**inputs, shifts=batch.shifts, strides=strides)

    def _learnt(self, results: RowResults) -> torch.Tensor:
        """(B,) what each row's training lowers."""
        distil = self.recipe.distil
        return results.loss if distil is None else results.loss + distil.weight * results.divergence

    def _forward_backward(self, step: int, batch: Batch, count: int, totals: _Totals) -> None:
        results = self._losses(batch)
        loss = (self._learnt(results) * batch.weights.to(self.device)).mean()
        if not torch.isfinite(loss):
            self._not_finite(step, batch, f"the loss is {float(loss.detach())}")
        (loss / count).backward()
        totals.rows += list(zip(batch.kinds, results.loss.tolist(), strict=True))
        if self.recipe.distil is not None:
            totals.divergences += list(zip(batch.kinds, results.divergence.tolist(), strict=True))
        totals.tokens += batch.tokens

    def _count_operations(self, step: int, mine: range) -> None:
        """Of the fullest micro-batch, because some samples may have no context."""
        phase = self.batches.phase_of(step)
        if not self.utilisation.counted(phase):
            batch = self.batches(step, max(mine, key=lambda micro: self.batches(step, micro).tokens))
            self.utilisation.count(phase, lambda: self._learnt(self._losses(batch)).mean())
            for optimizer in self.optimizers:
                optimizer.zero_grad()

    def measure_base(self) -> None:
        """Loss inside the window before any training, to compare validations with."""
        if not self.validation:
            return
        self.losses.eval()
        result = loss_before(self.wrapped, self.recipe, self.validation, self.window, self.device)
        self.losses.train()
        if self.log is not None and result:
            self.log.write(before=result)

    def validate(self, step: int) -> None:
        """Loss by context length and recall on the validation text."""
        if not self.validation:
            return
        self.losses.eval()
        result = validation_of(
            self.wrapped, self.tokenizer, self.recipe, self.validation, self.window, self.shared, self.device
        )
        self.losses.train()
        if self.log is not None:
            self.log.write(step=step, validation=result)

    def checkpoint(self, done: int) -> None:
        if not math.isfinite(float(_whole(nn.utils.get_total_norm(self.live)))):
            self._not_finite(done - 1, None, "the weights are no finite numbers after it")
        state = {"step": done, "data": self.digests, "torch": torch.__version__}
        main, keep = self.accelerator.is_main_process, self.recipe.keep_checkpoints
        save_checkpoint(self.checkpoints, self.losses, self.optimizers, state, keep, main)
        self.accelerator.wait_for_everyone()

    def _gates(self) -> list[float]:
        gates = [p for n, p in self.losses.named_parameters() if n.endswith("injection.gate")]
        return [float(torch.tanh(_whole(gate.detach()))) for gate in gates]

    def _not_finite(self, step: int, batch: Batch | None, what: str) -> None:
        """Stop, and save the batch if it is known: its tensors, and as metadata everything else that decides the step."""
        if batch is not None:
            path = self.output / f"not-finite-step-{step}-process-{self.accelerator.process_index}.safetensors"
            about = {"kinds": batch.kinds, "shifts": batch.shifts, "strides": batch.strides, "what": what, "step": step}
            tensors = {name: tensor.contiguous() for name, tensor in batch.tensors().items()}
            save_file(tensors, path, {key: json.dumps(value) for key, value in about.items()})
            what += f"; its batch is in {path}"
        last = latest(self.checkpoints)
        begin = f", and go on from there with resume_from={str(last)!r}" if last is not None else ""
        raise UserError(f"step {step}: {what}. Lower the learning rates, in a new output folder{begin}.")

    def _report_short(self) -> None:
        for phase in self.recipe.phases():
            for name in self.batches.stores:
                spans = self.batches.spans(name, phase.length)
                short = spans.short()
                if short:
                    self.say(
                        f"{name}: {len(short)} of {len(spans.store)} documents are shorter than a sample of {spans.length} "
                        f"tokens and are left out: {first_of(short, 3)}"
                    )

    def say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, soft_wrap=True)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded one."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _digest(store: TokenStore) -> str:
    return hashlib.sha256(json.dumps(store.manifest, sort_keys=True).encode()).hexdigest()
