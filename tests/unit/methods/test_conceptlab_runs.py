"""Whole runs of ConceptLab: the same again, cancelled anywhere, looked back at, stopped early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conceptloom.errors import ConfigError
from conceptloom.methods.conceptlab import NegativesConfig, invent
from conceptloom.training.recipe import LoopConfig

from ..vision.tiny_prior import WIDTH, tiny_prior
from .conceptlab_cases import CONFIG, Answers, Swatches, same


def test_the_same_seed_gives_the_same_concept_and_another_one_another() -> None:
    runs = [
        invent(tiny_prior(), "new", replace(CONFIG, seed=s), image_generator=Swatches())
        for s in (1, 1, 2)
    ]
    assert same(runs[0].concept, runs[1].concept)
    assert not same(runs[0].concept, runs[2].concept)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_run_cancelled_during_a_question_goes_on_with_the_same_negatives(
    tmp_path: Path, fails_at: int
) -> None:
    answers = ("dog", "cat", "fish")
    loop = LoopConfig(max_grad_norm=0.0, save_every=2)
    whole = invent(
        tiny_prior(),
        "new",
        CONFIG,
        image_generator=Swatches(),
        questions=Answers(*answers),
        loop=loop,
    )
    with pytest.raises(KeyboardInterrupt):
        invent(
            tiny_prior(),
            "new",
            CONFIG,
            image_generator=Swatches(),
            questions=Answers(*answers, fails_at=fails_at),
            loop=loop,
            folder=tmp_path,
        )
    left = Answers(*answers[fails_at:])
    resumed = invent(
        tiny_prior(),
        "new",
        CONFIG,
        image_generator=Swatches(),
        questions=left,
        loop=loop,
        folder=tmp_path,
    )
    assert len(left.asked) == 3 - fails_at
    assert resumed.negatives == whole.negatives == ["dog", "cat", "fish"]
    assert same(resumed.concept, whole.concept)
    assert resumed.history == whole.history
    assert resumed.checkpoints.steps == whole.checkpoints.steps


def test_a_run_that_is_cancelled_leaves_the_device(tmp_path: Path) -> None:
    space, answers, image_generator = tiny_prior(), Answers("a dog", fails_at=0), Swatches()
    parked: list[str] = []
    for name, part in (
        ("space", space),
        ("answers", answers),
        ("image_generator", image_generator),
    ):
        part.offload = lambda name=name: parked.append(name)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        invent(space, "new", CONFIG, image_generator=image_generator, questions=answers)
    assert parked == ["image_generator", "space", "answers", "space"]
    parked.clear()
    image_generator.paint = lambda *a, **k: answers.answer(torch.zeros(1), "")  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        invent(space, "new", CONFIG, image_generator=image_generator, questions=answers)
    assert parked == ["image_generator", "space"]


@pytest.mark.parametrize("at", ["drawing the gallery", "asking what the picture shows"])
def test_galleries_and_questions_are_reported_and_can_be_cancelled(at: str) -> None:
    class Telling(Swatches):
        def paint(self, prompts: Any, handles: Any, seed: int, progress: Any = None) -> Any:
            progress(1, 2, "drawing the gallery")
            return super().paint(prompts, handles, seed)

    answers, told = Answers("dog"), list[str]()

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        told.append(message)
        if message == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invent(
            tiny_prior(),
            "new",
            CONFIG,
            image_generator=Telling(),
            questions=answers,
            progress=progress,
        )
    assert told[-1] == at
    assert answers.asked == []


def test_every_checkpoint_can_be_had_afterwards_without_learning_again(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"image_generator": Swatches(), "folder": tmp_path}
    first = invent(tiny_prior(), "new", CONFIG, questions=Answers("dog"), **arguments)
    painted = arguments["image_generator"].painted
    again = invent(tiny_prior(), "new", CONFIG, questions=Answers("dog"), **arguments)
    assert arguments["image_generator"].painted == painted
    early = again.at(3)
    assert early.recipe["checkpoint"] == 3
    assert not same(early, again.concept)
    assert same(again.at(0), first.concept)
    start = tiny_prior().word_vectors("pet")["clip_l"]
    with pytest.raises(ConfigError, match="0, 3, 6, 7"):
        again.at(4)
    assert torch.equal(again.checkpoints.vectors(0, {"clip_l": WIDTH})["clip_l"], start)
    timeline = again.timeline()
    assert timeline is not None
    assert timeline.shape[-1] == 3


def test_it_stops_early_when_answers_repeat_and_stays_stopped(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=50, negatives=NegativesConfig(every=3, early_stop=2))
    runs = [
        invent(
            tiny_prior(),
            "new",
            config,
            image_generator=Swatches(),
            questions=Answers("dog"),
            folder=tmp_path,
        )
        for _ in range(2)
    ]
    assert [len(made.history) for made in runs] == [6, 6]
    assert same(runs[0].concept, runs[1].concept)
