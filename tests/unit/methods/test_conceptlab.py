"""ConceptLab runs: inventing, mixing and breeding on a tiny prior of the real classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.errors import ConfigError, HandleError
from conceptloom.host.ports import no_progress
from conceptloom.methods.conceptlab import (
    ConceptLabConfig,
    EvolutionConfig,
    Initialiser,
    Kind,
    NegativesConfig,
    Parent,
    evolve,
    invent,
    lineage_told,
    text_space_config,
)
from conceptloom.training.concept_file import load_concept, save_concept
from conceptloom.training.recipe import LoopConfig
from conceptloom.vision.clip_space import ClipSpace
from conceptloom.vision.painters import HostPainter
from conceptloom.vision.ports import PriorSampling

from ..tiny_models import tiny_host
from ..vision.tiny_prior import WIDTH, tiny_prior

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

    def park(self) -> None: ...


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

    def park(self) -> None: ...


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a.handles["new"][e], b.handles["new"][e]) for e in a.handles["new"])


def test_answers_become_constraints_of_later_steps() -> None:
    questions = Answers("a dog", "the cat", "Dogs")
    made = invent(tiny_prior(), "new", CONFIG, painter=Swatches(), questions=questions)
    assert questions.asked == ["What kind of pet is in this photo?"] * 3
    assert [look.added for look in made.looks] == ["dog", "cat", ""]
    assert made.negatives == ["dog", "cat"]
    columns = [{k for k in row if k.startswith("similarity")} for row in made.history]
    assert columns[0] == {"similarity pet", "similarity dog"}
    assert columns[3] == {"similarity pet", "similarity dog", "similarity cat"}
    assert made.album.steps == [0, 3, 6, 7]
    assert made.samples is not None
    assert made.samples.shape == (2, 8, 8, 3)
    assert made.concept.recipe["final_negatives"] == ["dog", "cat"]
    assert made.concept.method == "conceptlab"


def test_the_total_is_the_sum_of_its_terms_and_similarities_do_not_count() -> None:
    made = invent(tiny_prior(), "new", CONFIG, painter=Swatches(), questions=Answers("dog"))
    for row in made.history:
        assert row["total"] == pytest.approx(row["positive"] + row["negative"])


def test_it_moves_towards_the_positive_and_away_from_the_negative() -> None:
    config = replace(
        CONFIG,
        steps=50,
        learning_rate=0.3,
        negatives=NegativesConfig(start=("dog",), every=0),
        templates=("a photo of a {concept}",),
    )
    made = invent(tiny_prior(), "new", replace(config, initialiser_word="dog"))
    first, last = made.history[:1], made.history[-10:]

    def gap(rows: Any) -> float:
        return sum(r["similarity pet"] - r["similarity dog"] for r in rows) / len(rows)

    assert gap(last) > gap(first) + 0.01


def test_the_same_seed_gives_the_same_concept_and_another_one_another() -> None:
    runs = [
        invent(tiny_prior(), "new", replace(CONFIG, seed=s), painter=Swatches()) for s in (1, 1, 2)
    ]
    assert same(runs[0].concept, runs[1].concept)
    assert not same(runs[0].concept, runs[2].concept)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_run_cancelled_during_a_question_goes_on_with_the_same_negatives(
    tmp_path: Path, fails_at: int
) -> None:
    answers = ("dog", "cat", "fish")
    loop = LoopConfig(clip=0.0, save_every=2)
    whole = invent(
        tiny_prior(), "new", CONFIG, painter=Swatches(), questions=Answers(*answers), loop=loop
    )
    with pytest.raises(KeyboardInterrupt):
        invent(
            tiny_prior(),
            "new",
            CONFIG,
            painter=Swatches(),
            questions=Answers(*answers, fails_at=fails_at),
            loop=loop,
            folder=tmp_path,
        )
    left = Answers(*answers[fails_at:])
    resumed = invent(
        tiny_prior(),
        "new",
        CONFIG,
        painter=Swatches(),
        questions=left,
        loop=loop,
        folder=tmp_path,
    )
    assert len(left.asked) == 3 - fails_at
    assert resumed.negatives == whole.negatives == ["dog", "cat", "fish"]
    assert same(resumed.concept, whole.concept)
    assert resumed.history == whole.history
    assert resumed.album.steps == whole.album.steps


def test_a_run_that_is_cancelled_leaves_the_device(tmp_path: Path) -> None:
    space, answers, painter = tiny_prior(), Answers("a dog", fails_at=0), Swatches()
    parked: list[str] = []
    for name, part in (("space", space), ("answers", answers), ("painter", painter)):
        part.park = lambda name=name: parked.append(name)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        invent(space, "new", CONFIG, painter=painter, questions=answers)
    assert parked == ["painter", "space", "answers", "space"]
    parked.clear()
    painter.paint = lambda *a, **k: answers.answer(torch.zeros(1), "")  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        invent(space, "new", CONFIG, painter=painter, questions=answers)
    assert parked == ["painter", "space"]


def test_every_checkpoint_can_be_had_afterwards_without_learning_again(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"painter": Swatches(), "folder": tmp_path}
    first = invent(tiny_prior(), "new", CONFIG, questions=Answers("dog"), **arguments)
    painted = arguments["painter"].painted
    again = invent(tiny_prior(), "new", CONFIG, questions=Answers("dog"), **arguments)
    assert arguments["painter"].painted == painted
    early = again.at(3)
    assert early.recipe["checkpoint"] == 3
    assert not same(early, again.concept)
    assert same(again.at(0), first.concept)
    start = tiny_prior().word_vectors("pet")["clip_l"]
    with pytest.raises(ConfigError, match="0, 3, 6, 7"):
        again.at(4)
    assert torch.equal(again.album.vectors(0, {"clip_l": WIDTH})["clip_l"], start)
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
            painter=Swatches(),
            questions=Answers("dog"),
            folder=tmp_path,
        )
        for _ in range(2)
    ]
    assert [len(made.history) for made in runs] == [6, 6]
    assert same(runs[0].concept, runs[1].concept)


def test_positives_alone_are_mixed_by_their_weights() -> None:
    config = replace(
        CONFIG,
        positives=("lobster", "turtle"),
        weights=(3.0, 1.0),
        negatives=NegativesConfig(every=0),
    )
    made = invent(tiny_prior(), "new", config)
    row = made.history[0]
    expected = 0.75 * (1 - row["similarity lobster"]) + 0.25 * (1 - row["similarity turtle"])
    assert row["total"] == pytest.approx(expected, abs=1e-6)
    assert row["negative"] == 0


def test_constraints_are_encoded_once_for_each_sentence() -> None:
    space, asked = tiny_prior(), list[str]()
    meanings = space.meanings
    space.meanings = lambda texts: (asked.extend(texts), meanings(texts))[1]  # type: ignore[method-assign]
    config = replace(CONFIG, steps=30, negatives=NegativesConfig(start=("dog", "cat"), every=0))
    invent(space, "new", config)
    assert len(asked) == len(set(asked)) == 2 * 3 * 3  # templates, articles, words


def test_a_style_is_held_to_its_sentence_without_the_style() -> None:
    config = replace(
        CONFIG,
        kind=Kind.STYLE,
        positives=("art",),
        templates=("a painting of a dog in the style of {concept}",),
        negatives=NegativesConfig(every=0),
        steps=1,
    )
    space = tiny_prior()
    asked = list[str]()
    meanings = space.meanings
    space.meanings = lambda texts: (asked.extend(texts), meanings(texts))[1]  # type: ignore[method-assign]
    invent(space, "new", config)
    assert asked == ["a painting of a dog"]


def test_a_category_of_several_words_starts_from_their_mean_or_the_first() -> None:
    space = tiny_prior()
    rows = space.word_vectors("musical instrument")["clip_l"]
    assert len(rows) > 1
    config = replace(
        CONFIG, positives=("musical instrument",), negatives=NegativesConfig(every=5), steps=1
    )
    mean = invent(space, "new", config, painter=Swatches())
    first = invent(space, "new", replace(config, initialiser=Initialiser.FIRST), painter=Swatches())
    width = {"clip_l": WIDTH}
    torch.testing.assert_close(mean.album.vectors(0, width)["clip_l"], rows.mean(0, keepdim=True))
    torch.testing.assert_close(first.album.vectors(0, width)["clip_l"], rows[:1])


def test_a_name_that_is_no_handle_is_refused() -> None:
    with pytest.raises(HandleError):
        invent(tiny_prior(), "new pet", CONFIG)


def parents() -> list[Parent]:
    draw = torch.Generator().manual_seed(0)
    return [
        Parent("left", torch.rand(3, 16, 16, 3, generator=draw), {}),
        Parent(
            "right",
            torch.rand(2, 16, 16, 3, generator=draw),
            {"generation": 1, "parents": {"a": 0.5, "b": 0.5}, "ancestors": {}},
        ),
    ]


EVOLUTION = EvolutionConfig(
    first_word="pet",
    weights=(3.0, 1.0),
    steps=5,
    learning_rate=1e-2,
    sampling=SAMPLING,
    templates=("a photo of {a} {concept}",),
    gallery=("a photo of a {concept}",),
    gallery_every=2,
)


def test_a_child_is_near_its_parents_pictures_and_remembers_them(tmp_path: Path) -> None:
    made = evolve(tiny_prior(), "child", parents(), EVOLUTION, painter=Swatches())
    row = made.history[0]
    expected = 1 - 0.75 * row["similarity left"] - 0.25 * row["similarity right"]
    assert row["total"] == pytest.approx(expected, abs=1e-6)
    assert made.album.steps == [0, 2, 4, 5]
    path = save_concept(made.concept, tmp_path / "child.safetensors")
    told = lineage_told("child", load_concept(path).recipe)
    assert told == [
        "child (generation 2): 75% left + 25% right",
        "right (generation 1): 50% a + 50% b",
    ]


def test_breeding_lowers_the_loss_and_can_be_resumed(tmp_path: Path) -> None:
    config = replace(EVOLUTION, steps=60, learning_rate=3e-2, gallery_every=0)
    made = evolve(tiny_prior(), "child", parents(), config, folder=tmp_path)
    first = sum(row["total"] for row in made.history[:10])
    assert sum(row["total"] for row in made.history[-10:]) < first - 0.1
    again = evolve(tiny_prior(), "child", parents(), config, folder=tmp_path)
    assert torch.equal(
        again.concept.handles["child"]["clip_l"], made.concept.handles["child"]["clip_l"]
    )


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_without_a_prior_it_learns_in_the_base_models_own_text_space(family: str) -> None:
    host = tiny_host(family)
    config = replace(text_space_config(CONFIG), steps=2)
    painter = HostPainter(host, steps=1, cfg=2.0, size=(32, 32))
    made = invent(ClipSpace(host), "new", config, painter=painter, questions=Answers("dog"))
    assert made.concept.base == host.fingerprint
    assert set(made.concept.handles["new"]) == set(host.encoders)
    assert made.samples is not None
    assert made.samples.shape == (2, 32, 32, 3)
