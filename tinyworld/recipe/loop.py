"""The training loop both stages share: resumable, data-parallel, budgeted in minutes."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .muon import Muon, is_matrix

log = logging.getLogger("conceptloom")

FALLING_DECAY = 0.99  # of the weights' average while the learning rate falls


@dataclass(frozen=True, kw_only=True)
class TrainingBudget:
    """How long and how hard to train."""

    minutes: float  # of training time, summed over all interrupted runs
    learning_rate: float
    warmup_steps: int = 100
    falling: float = 0.0  # last minutes, over which the learning rate falls to nothing
    weight_decay: float = 0.0
    save_minutes: float = 4.0  # between two saved states
    muon: bool = False  # move matrices with Muon, the rest with AdamW

    def optimizers(self, modules: nn.Module) -> list[torch.optim.Optimizer]:
        """Fresh optimizers for all trainable parameters."""
        named = [(n, p) for n, p in modules.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if self.muon and is_matrix(n, p)]
        rest = [p for n, p in named if not (self.muon and is_matrix(n, p))]
        adam = torch.optim.AdamW(
            rest, lr=0.0, betas=(0.9, 0.99), weight_decay=self.weight_decay, fused=True
        )
        if not matrices:
            return [adam]
        return [adam, Muon(matrices, lr=0.0, weight_decay=self.weight_decay)]

    def falls(self, minute: float) -> bool:
        """Whether the learning rate has begun to fall."""
        return self.falling > 0 and minute >= self.minutes - self.falling

    def rate(self, steps: int, minute: float) -> float:
        """Learning rate after so many steps of this run, in a minute of all runs together."""
        warm = min(1.0, (steps + 1) / self.warmup_steps)
        if not self.falls(minute):
            return self.learning_rate * warm
        left = max(0.0, (self.minutes - minute) / self.falling)
        return self.learning_rate * warm * max(0.01, 0.5 - 0.5 * math.cos(math.pi * left))


@dataclass(frozen=True, kw_only=True)
class Team:
    """This process among the processes that train together."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def bfloat16(self) -> bool:
        """Whether this machine multiplies bfloat16 in hardware."""
        if self.device != "cpu":
            return torch.cuda.is_bf16_supported()
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Make every process hold the mean of all processes' gradients."""
        if self.size == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        for p, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
            p.grad = part.view_as(p)

    def agree(self, value: float) -> float:
        """The first process's value, in all processes."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(box, 0)
        return float(box)


Loss = Callable[[int], Tensor]  # step -> loss of this process's batch


def train(
    modules: nn.ModuleDict,
    loss_of: Loss,
    budget: TrainingBudget,
    team: Team,
    state_path: Path,
    on_save: Callable[[nn.ModuleDict, dict[str, Any]], None] | None = None,
    ema_decay: float = 0.997,
) -> dict[str, Any]:
    """Train `modules` until the budget is used up, from the saved state if there is one.

    The batch of a step depends on the step's number alone, so that a resumed run sees what
    the uninterrupted one would have seen. `on_save` receives the averaged weights. When the
    learning rate begins to fall, the state of that moment is kept beside: a run that is given more
    minutes afterwards goes on from there, as if the rate had never fallen.

    Returns:
        figures: steps, minutes, and the loss history [(step, minutes, loss)].
    """
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizers = budget.optimizers(modules)
    average = [p.detach().clone() for p in parameters]
    figures: dict[str, Any] = {"steps": 0, "minutes": 0.0, "losses": []}
    before_fall = state_path.with_suffix(".before_fall.pt")
    state = _load(state_path, before_fall, budget, team)
    if state is not None:
        modules.load_state_dict(state["modules"])
        for optimizer, saved_one in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved_one)
        average, figures = state["average"], state["figures"]
        log.info("resuming at step %d, minute %.1f", figures["steps"], figures["minutes"])
    before, first, started = figures["minutes"], figures["steps"], time.monotonic()
    warm = 0 if state is None else budget.warmup_steps  # a resumed run is warm
    saved, recent = before, []
    while True:
        minutes = team.agree(before + (time.monotonic() - started) / 60)
        finished = minutes >= budget.minutes
        if finished or minutes - saved > budget.save_minutes:
            saved, figures["minutes"] = minutes, minutes
            if team.rank == 0:
                _save(state_path, modules, optimizers, average, figures)
                if on_save is not None:
                    with averaged(parameters, average):
                        on_save(modules, figures)
        if finished:
            return figures
        if budget.falls(minutes) and "fell_until" not in figures:
            figures["minutes"] = minutes
            if team.rank == 0:
                _save(before_fall, modules, optimizers, average, figures)
            figures["fell_until"] = budget.minutes
        step = figures["steps"]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = budget.rate(step + warm, minutes)
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of(step)
        loss.backward()
        team.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(ema_decay, (step + 1) / (step + 10))
        if "fell_until" in figures:  # a fallen rate averages by itself
            decay = min(decay, FALLING_DECAY)
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        figures["steps"] = step + 1
        recent.append(loss.item())
        if len(recent) == 50:
            mean, recent = sum(recent) / 50, []
            figures["losses"].append((step + 1, round(minutes, 2), mean))
            if team.rank == 0:
                pace = (minutes - before) * 60 / (step + 1 - first)
                log.info("step %d minute %.1f loss %.5f %.3f s/step", step + 1, minutes, mean, pace)


def _load(
    path: Path, before_fall: Path, budget: TrainingBudget, team: Team
) -> dict[str, Any] | None:
    """The saved state to go on from, if there is one."""
    if not path.exists():
        return None
    state = torch.load(path, map_location=team.device, weights_only=True)
    if state["figures"].get("fell_until", budget.minutes) < budget.minutes:
        state = torch.load(before_fall, map_location=team.device, weights_only=True)
    return state


def _save(
    path: Path,
    modules: nn.ModuleDict,
    optimizers: list[torch.optim.Optimizer],
    average: list[Tensor],
    figures: dict[str, Any],
) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "modules": modules.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "average": average,
            "figures": figures,
        },
        temporary,
    )
    os.replace(temporary, path)


class averaged:
    """Context in which parameters hold their running average; afterwards what they held before."""

    def __init__(self, parameters: list[nn.Parameter], average: list[Tensor]) -> None:
        self.parameters, self.average = parameters, average

    def __enter__(self) -> None:
        self.held = [p.detach().clone() for p in self.parameters]
        for p, a in zip(self.parameters, self.average, strict=True):
            p.data.copy_(a)

    def __exit__(self, *_: object) -> None:
        for p, h in zip(self.parameters, self.held, strict=True):
            p.data.copy_(h)


def train_in_processes(target: Callable[..., None], processes: int, arguments: tuple) -> None:
    """Run `target(team, *arguments)` in that many one-thread processes that share gradients.

    On two CPU cores two processes of one thread are a fifth faster than one of two threads.
    """
    if processes == 1:
        torch.set_num_threads(1)
        target(Team(), *arguments)
        return
    torch.multiprocessing.spawn(
        _joined, args=(target, processes, _free_port(), arguments), nprocs=processes
    )


def _joined(rank: int, target: Callable[..., None], size: int, port: int, arguments: tuple) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    try:
        target(Team(rank=rank, size=size), *arguments)
    finally:
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
