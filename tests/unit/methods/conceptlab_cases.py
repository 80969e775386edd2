"""What the tests of ConceptLab invent with: short settings, a painter, and who answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from conceptloom.host.ports import no_progress
from conceptloom.methods.conceptlab import ConceptLabConfig, NegativesConfig
from conceptloom.vision.ports import PriorSampling

SAMPLING = PriorSampling(steps=2, checkpointing=False)
CONFIG = ConceptLabConfig(
    positives=("pet",),
    negatives=NegativesConfig(every=3),
    steps=7,
    learning_rate=1e-2,
    positive_ceiling=1.0,
    negative_floor=-1.0,
    sampling=SAMPLING,
    templates=("a photo of {a} {concept}", "a painting of {a} {concept}"),
    gallery=("a photo of a {concept}", "a drawing of a {concept}"),
)


class Swatches:
    """Paints each prompt as one colour that depends on the handle's vector."""

    name = "swatches"

    def __init__(self) -> None:
        self.painted = 0

    def paint(
        self, prompts: Sequence[str], handles: Any, seed: int, progress: Any = no_progress
    ) -> Tensor:
        self.painted += 1
        (vectors,) = handles.values()
        colour = vectors["clip_l"].detach().flatten()[:3].sigmoid()
        return colour.expand(len(prompts), 8, 8, 3).clone()

    def offload(self) -> None: ...


class Answers:
    """Gives the answers of a list, one after another; may fail at one of them."""

    name = "answers"

    def __init__(self, *answers: str, fails_at: int = -1) -> None:
        self.answers, self.fails_at, self.asked = list(answers), fails_at, list[str]()

    def answer(self, image: Tensor, question: str) -> str:
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append(question)
        return self.answers[(len(self.asked) - 1) % len(self.answers)]

    def offload(self) -> None: ...


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a.handles["new"][e], b.handles["new"][e]) for e in a.handles["new"])
