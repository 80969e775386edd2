"""A small run of training whose states are saved and read."""

from __future__ import annotations

import torch
from torch import nn

from conceptloom.training.state_file import TrainingState


class Learner:
    """A line fitted to noise: optimizer with momentum, and a generator of its own."""

    def __init__(self, optimizer: str = "AdamW") -> None:
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))
        self.half = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        self.draw = torch.Generator().manual_seed(11)
        kinds = {
            "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.99), weight_decay=0.01),
            "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
            "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
            "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
        }
        self.optimizer = kinds[optimizer]([self.weight, self.half])
        self.history: list[dict[str, float]] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            target = torch.randn(3, generator=self.draw)
            loss = (self.weight - target).square().sum() + self.half.float().square().sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            step = len(self.history) + 1
            row = {"step": step, "phase": 0, "total": loss.item()}
            self.history.append(row if step % 2 else {**row, "prior": 1 / 3})

    def state(self) -> TrainingState:
        return TrainingState(
            step=len(self.history),
            parameters={"weight": self.weight.detach(), "half": self.half.detach()},
            optimizer=self.optimizer.state_dict(),
            history=self.history,
            more={"phase": 0, "draw": self.draw.get_state().tolist()},
        )

    @torch.no_grad()
    def take(self, state: TrainingState) -> None:
        self.weight.copy_(state.parameters["weight"])
        self.half.copy_(state.parameters["half"])
        assert state.optimizer is not None
        self.optimizer.load_state_dict(state.optimizer)
        self.draw.set_state(torch.tensor(state.more["draw"], dtype=torch.uint8))
        self.history = state.history
