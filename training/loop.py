"""The training loop of all methods: phases, optimizer, resuming, error handling.

The loop is independent of the method. All random numbers of a step come from a generator seeded by
(seed, step, pass), so a resumed run equals an uninterrupted one exactly.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DivergedError, MemoryExhaustedError
from .divergence import DivergenceDetector, remaining
from .recipe import Events, LoopConfig, LoopState, Phase, Recipe, StateStore
from .results import saved_when_stopped

log = logging.getLogger("conceptloom")

MOST_OVERFLOWS = 20  # steps skipped in a row, after which half precision is not going to work
ADVICE = "Use a smaller resolution, a smaller scope (low-rank, handles) or a batch of 1."


def run(
    recipe: Recipe,
    config: LoopConfig,
    events: Events | None = None,
    store: StateStore | None = None,
) -> LoopState:
    """Train to the end, starting from the newest saved state.

    Raises:
        DivergedError: the loss became NaN or exploded; parameters are those of the last good state.
        MemoryExhaustedError: out of memory, also after one step down.
        Exceptions of `events.progress`, which cancel; the state is saved before.
    """
    phases, parameters = recipe.phases(), recipe.named_parameters()

    def optimizer_for(index: int) -> torch.optim.AdamW:
        return _optimizer(phases[index], config)

    state = (store.load(parameters, optimizer_for) if store else None) or LoopState()
    if state.step:
        log.info("resuming after step %d", state.step)
    if state.stepped_down:
        recipe.step_down()

    def rewind(step: int) -> str:
        if store is None:
            return "in memory only: the run has no folder"
        store.drop_after(step)
        earlier = store.load(parameters, optimizer_for) or LoopState()
        for name in ("step", "history", "optimizer", "phase"):
            setattr(state, name, getattr(earlier, name))
        return "saved earlier" if state.step else "no earlier state exists; start over"

    with saved_when_stopped(store, state, parameters) as save:
        run_ = _Run(recipe, config, events or Events(), state, phases, save, rewind)
        for index in range(len(phases)):
            if state.step < run_.ends[index]:
                if state.phase != index or state.optimizer is None:
                    state.optimizer, state.phase = optimizer_for(index), index
                run_.finish_phase(index)
    return state


class _Run:
    """One call of `run`."""

    def __init__(
        self,
        recipe: Recipe,
        config: LoopConfig,
        events: Events,
        state: LoopState,
        phases: Sequence[Phase],
        save: Callable[[], str],
        rewind: Callable[[int], str],
    ) -> None:
        self.recipe, self.config, self.events, self.state = recipe, config, events, state
        self.phases, self.save, self.rewind = phases, save, rewind
        self.ends = list(itertools.accumulate(phase.steps for phase in phases))
        self.watch = DivergenceDetector()
        self.started, self.first = time.monotonic(), state.step
        self.overflows = 0

    def finish_phase(self, index: int) -> None:
        """All steps of a phase; handles out of memory once, outside the model's context."""
        before = self.ends[index] - self.phases[index].steps
        earlier = [row["total"] for row in self.state.history[before:]]
        self.watch = DivergenceDetector(earlier, before, is_bounded=self.phases[index].is_bounded)
        while self.state.step < self.ends[index]:
            try:
                with self.recipe.computing(self.phases[index]):
                    while self.state.step < self.ends[index]:
                        self.report(index, self.step(self.phases[index]))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if not self.state.is_whole:  # no smaller pass helps, and nothing can be repeated
                    raise MemoryExhaustedError(
                        f"Out of memory in the optimizer at step {self.state.step + 1}: its state "
                        f"for the trained parameters does not fit. {ADVICE}"
                    ) from error
                self.step_down(error)
            if self.state.step < self.ends[index] and torch.cuda.is_available():
                torch.cuda.empty_cache()  # only now: the error held what the failed pass had made

    def step(self, phase: Phase) -> dict[str, float]:
        """One optimizer step; parameters change only if the loss is sound."""
        optimizer = self.state.optimizer
        assert optimizer is not None
        optimizer.zero_grad(set_to_none=True)
        terms = self.gradients(phase)
        total = sum(terms.values())
        norm = _unscaled_norm(phase.every_parameter, self.config)
        trouble = self.watch.trouble(total)
        # An overflow under loss scaling skips the step.
        self.overflows = 0 if math.isfinite(norm) else self.overflows + 1
        patience = 1 if self.config.loss_scale == 1 else MOST_OVERFLOWS
        if trouble is None and self.overflows >= patience:
            trouble = "the gradients are not finite"
        if trouble:
            raise self.diverged(phase, trouble)
        self.state.is_whole = False
        if not self.overflows:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # previews want the room
        self.state.step += 1
        self.watch.add(total)
        return {"total": total, **terms}

    def diverged(self, phase: Phase, trouble: str) -> DivergedError:
        """Restore the last good state; returns the error for the user."""
        stopped_at = self.state.step + 1
        # A step with a bad loss is not taken, so before one the present state is a good one.
        exploded = self.watch.has_diverged
        saved = self.rewind(self.watch.good_until) if exploded else self.save()
        return DivergedError(
            f"Training stopped at step {stopped_at} ({phase.name}): {trouble}. It keeps the state "
            f"after step {self.state.step} ({saved}). Lower the learning rate of this phase, now "
            f"{phase.learning_rate:g}, to a third and queue again; with another rate, training "
            "starts over."
        )

    def gradients(self, phase: Phase) -> dict[str, float]:
        """Mean gradients over the accumulated passes, and the mean of every loss term."""
        passes = self.config.accumulation * self.state.passes
        means: dict[str, float] = {}
        for part in range(passes):
            if part:  # may cancel: a step that is not whole is repeated
                self.events.progress(self.state.step, self.ends[-1])
            generator = step_generator(self.config.seed, self.state.step, part)
            terms = self.recipe.losses(phase, generator)
            total = torch.stack(list(terms.values())).sum()
            (total * (self.config.loss_scale / passes)).backward()
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + float(value.detach()) / passes
        for handle in phase.handles:
            if handle.grad is None:
                handle.grad = torch.zeros_like(handle)
        return means

    def report(self, index: int, terms: Mapping[str, float]) -> None:
        """Report a finished step; progress comes last, because it may cancel."""
        state, config = self.state, self.config
        state.history.append({"step": state.step, "phase": index, **terms})
        state.is_whole = True
        self.events.on_step(state.history[-1])
        preview = None
        if config.preview_every and state.step % config.preview_every == 0:
            preview = self.preview()
        # A state that may be on its way to an explosion would push a good one off the disk.
        if config.save_every and state.step % config.save_every == 0 and self.watch.is_sound:
            self.save()
        total = self.ends[-1]
        seconds = time.monotonic() - self.started
        left = remaining(seconds, state.step - self.first, total - state.step)
        message = f"{self.phases[index].name}: loss {self.watch.smooth:.4g}, {left} left"
        self.events.progress(state.step, total, message, preview)

    def preview(self) -> Tensor | None:
        """The preview of a step, or None if there is not enough memory for it."""
        try:
            return self.events.on_preview(self.state.step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.warning("no preview at step %d: out of memory", self.state.step)
            return None

    def step_down(self, error: Exception) -> None:
        """Reduce memory for the following steps, or raise with advice."""
        if self.state.stepped_down:
            raise MemoryExhaustedError(
                f"Out of memory, also after stepping down. {ADVICE}"
            ) from error
        lesser = self.recipe.step_down()
        if lesser is None:
            raise MemoryExhaustedError(
                f"Out of memory, and nothing left to free. {ADVICE}"
            ) from error
        self.state.stepped_down = True
        self.state.passes = lesser.passes
        log.warning("out of memory at step %d: %s", self.state.step + 1, lesser.message)


def summary(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Steps, and the mean of every loss term over the last tenth of them."""
    tail = history[-max(1, len(history) // 10) :]
    names = [name for name in (tail[-1] if tail else {}) if name not in ("step", "phase")]
    means = {name: sum(row.get(name, 0.0) for row in tail) / len(tail) for name in names}
    return {"steps": len(history), **means}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is torch's out-of-memory error, on CUDA, MPS or the CPU."""
    messages = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in messages)
    )


def _unscaled_norm(parameters: Sequence[nn.Parameter], config: LoopConfig) -> float:
    """Unscale and clip the gradients; returns their norm before clipping."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if config.loss_scale != 1:
        for grad in grads:
            grad.div_(config.loss_scale)
    largest = config.max_grad_norm or math.inf
    return float(nn.utils.clip_grad_norm_(parameters, largest))


def _optimizer(phase: Phase, config: LoopConfig) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [{"params": list(phase.parameters)}]
    groups += [{"params": list(group), "lr": rate} for group, rate in phase.others]
    # One kernel a step: a sixth of the time on a CPU, and no copies of all parameters on a GPU.
    is_fused = all(p.device.type in ("cpu", "cuda") for p in phase.every_parameter)
    return torch.optim.AdamW(
        groups,
        lr=phase.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        eps=config.epsilon,
        fused=is_fused,
    )


def step_generator(seed: int, step: int, part: int = 0) -> torch.Generator:
    """Generator of one forward pass; the same in every run, resumed or not."""
    digest = hashlib.sha256(f"{seed}/{step}/{part}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
