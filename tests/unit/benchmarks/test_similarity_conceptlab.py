"""ConceptLab's similarity: the plan, spaces and measures by hand, and a whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from harness.report import page as page_of
from harness.results import Result
from harness.subject import subject_of
from similarity import conceptlab as lab
from similarity.conceptlab import (
    Judge,
    Learning,
    StepClock,
    by_category,
    describe_remaining,
    describe_times,
    file_of,
)
from similarity.inventions import (
    ADAPTIVE,
    CATEGORIES,
    FULL,
    GIVEN,
    LEARNED,
    NOUNS,
    PROMPTED,
    QUICK,
    TEXT,
    VARIANTS,
    WORDS,
    Cell,
    Networks,
    TextSpace,
    Unwanted,
    cells_of,
    config_of,
)
from torch import Tensor

from conceptloom.errors import ModelError, UnsupportedModelError
from conceptloom.vision.ports import PriorSampling

from ..vision.tiny_files import save_blip2, save_decoder_21, save_decoder_22, save_prior
from ..vision.tiny_prior import tiny_prior
from .tiny_encoders import save_encoders

PET = CATEGORIES[0]
PLAIN = PriorSampling(steps=2, checkpointing=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kandinsky 2.1's prior and decoder, BLIP-2 and CLIP, of the real classes."""
    folder = tmp_path_factory.mktemp("models")
    save_prior(folder / "prior", "KandinskyPriorPipeline")
    save_decoder_21(folder / "decoder")
    save_blip2(folder / "blip2")
    save_encoders(folder)
    return folder


def cell(variant: str, seed: int = 0) -> Cell:
    return Cell(PET, PET.pairs[0], seed, variant)


def called(models: Path, *more: str) -> Result:
    command = ["--prior", str(models / "prior"), "--decoder", str(models / "decoder")]
    command += ["--clip", str(models / "clip"), "--categories", "pet", "--quick", *more]
    subject = subject_of("similarity", "conceptlab")
    return subject.run(subject.parse(command))


def test_a_hundred_nouns_and_three_pairs_of_each_category() -> None:
    assert len(NOUNS) == len(set(NOUNS)) == 100
    for category in CATEGORIES:
        assert len(category.members) == 20
        assert len({word for pair in category.pairs for word in pair}) == 6
        assert {word for pair in category.pairs for word in pair} < set(category.members)
        assert category.word not in NOUNS


def test_the_papers_protocol_has_75_concepts_of_32_pictures() -> None:
    cells = cells_of(CATEGORIES, VARIANTS, FULL)
    assert sum(one.variant == GIVEN for one in cells) == 75
    assert (FULL.pictures, FULL.steps) == (32, 2500)
    assert {one.seed for one in cells[:75]} == {0}  # whole rounds first
    files = {variant: {one.file for one in cells if one.variant == variant} for variant in VARIANTS}
    assert len(files[PROMPTED]) == 75
    assert len(files[WORDS]) == 25  # the same pictures whatever the pair is


def test_variants_differ_in_what_they_are_named_after() -> None:
    given, asked, in_text = (config_of(cell(v), FULL) for v in (GIVEN, ADAPTIVE, TEXT))
    assert given.negatives.start == asked.negatives.start == ("cat", "dog")
    assert (given.negatives.every, asked.negatives.every) == (0, 250)
    assert replace(given, negatives=asked.negatives) == asked
    assert (in_text.positive_ceiling, in_text.negative_floor) == (1, -1)
    assert replace(given, positive_ceiling=1.0, negative_floor=-1.0) == in_text


def test_the_text_space_sees_no_prior_and_all_else_is_the_priors() -> None:
    prior = tiny_prior()
    space = TextSpace(prior)
    with torch.no_grad():
        seen = space.imagine("a dog", {}, torch.Generator().manual_seed(0), PLAIN)
        imagined = prior.imagine("a dog", {}, torch.Generator().manual_seed(0), PLAIN)
    meant = torch.nn.functional.normalize(seen, dim=0)
    torch.testing.assert_close(meant, prior.meanings(["a dog"])[0])
    assert not torch.allclose(seen, imagined)
    assert (space.encoders, space.digest) == (prior.encoders, prior.digest)


def test_a_negative_prompt_is_what_the_decoder_is_guided_away_from() -> None:
    prior = tiny_prior()
    unwanted = Unwanted(prior, "a dog", seed=3)
    alone = PriorSampling(guidance=1.0)
    with torch.no_grad():
        dog = prior.imagine("a dog", {}, torch.Generator().manual_seed(3), alone)
    assert torch.equal(unwanted.blank(), dog[None])
    assert not torch.allclose(unwanted.blank(), prior.blank())


class Answers:
    """Somebody who answers."""

    def __init__(self, name: str) -> None:
        self.name = name


def files_with(answers: str = "") -> dict[str, str]:
    """Variant -> the name of its files."""
    questions = cast(Any, Answers(answers)) if answers else None
    networks = Networks(cast(Any, None), None, questions)
    return {variant: file_of(networks, cell(variant), FULL) for variant in VARIANTS}


def test_other_answers_are_another_file_of_the_variant_that_asks() -> None:
    before, after = files_with("one"), files_with("another")
    assert [variant for variant in VARIANTS if before[variant] != after[variant]] == [ADAPTIVE]


def test_another_setting_is_another_file_of_what_is_learned_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = files_with()
    with monkeypatch.context() as patch:
        patch.setattr(
            lab,
            "config_of",
            lambda one, budget: replace(config_of(one, budget), negative_floor=0.1),
        )
        after = files_with()
    assert {variant for variant in VARIANTS if before[variant] != after[variant]} == set(LEARNED)
    monkeypatch.setattr(lab, "PROMPT", "A drawing of a {}")
    assert not {*files_with().values()} & {*before.values()}


def test_words_alone_are_drawn_once_for_all_pairs() -> None:
    networks = Networks(cast(Any, None), None)
    cells = [Cell(PET, pair, 0, WORDS) for pair in PET.pairs]
    assert len({file_of(networks, one, FULL) for one in cells}) == 1


class Axes:
    """A CLIP that knows a few texts, each an axis of its own; all else is nothing."""

    KNOWN = ("A photo of a pet", "A photo of a cat", "A photo of a dog", "A photo of a harp")

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), len(self.KNOWN))
        for row, text in zip(rows, texts, strict=True):
            if text in self.KNOWN:
                row[self.KNOWN.index(text)] = 1
        return rows

    def of_images(self, images: Tensor) -> Tensor:
        return images[:, 0, 0]  # a picture is its own vector


def test_the_measures_are_the_papers_and_the_nearest_noun() -> None:
    pictures = torch.tensor([[0.8, 0.1, 0.5, 0.2], [0.3, 0.4, 0.0, 0.7]])[:, None, None]
    found = Judge(Axes()).judged(pictures, cell(GIVEN))  # type: ignore[arg-type]
    assert found["positive"] == pytest.approx([0.8, 0.3])
    assert found["distance"] == pytest.approx([0.8 - 0.5, 0.3 - 0.4])
    assert found["nearest"] == pytest.approx([0.5, 0.7])  # a harp, which is nobody's negative


def test_the_page_counts_in_how_many_categories_it_is_ahead() -> None:
    judged = {}
    for category, ours, theirs in ((CATEGORIES[0], 0.3, 0.2), (CATEGORIES[1], 0.2, 0.2)):
        for variant, value in ((GIVEN, ours), (PROMPTED, theirs)):
            row = {"positive": [value], "distance": [-value], "nearest": [0.0]}
            judged[Cell(category, category.pairs[0], 0, variant)] = row
    section = by_category(judged, CATEGORIES[:2])
    assert list(section.table.rows[0].values()) == ["pet", 0.3, 0.2, -0.3, -0.2]
    assert "positive in 1 of 2 (paper: 5 of 5), distance in 0 of 2 (paper: 4 of 5)" in section.after


def test_a_steps_seconds_are_those_of_the_steps_made_here() -> None:
    clock = StepClock([(40, 10.0), (41, 10.2), (50, 12.0)])
    assert clock.seconds == pytest.approx(0.2)
    assert StepClock([(50, 1.0)]).seconds is None
    section = describe_times({cell(GIVEN): Learning(0.25), cell(WORDS): Learning()})
    assert section.table.rows == [{"variant": GIVEN, "seconds": 0.25}]


def test_the_page_tells_what_answers_added_to_the_pair() -> None:
    learnings = {
        cell(ADAPTIVE, 0): Learning(0.1, ["cat", "dog", "hamster", "fox"]),
        cell(ADAPTIVE, 1): Learning(0.1, ["cat", "dog"]),
        cell(GIVEN, 0): Learning(0.1, ["cat", "dog"]),
    }
    assert describe_remaining(learnings) == ["* pet: cat, dog: hamster, fox; none."]


def test_networks_that_do_not_go_together_are_reported_before_anything_is_learned(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_decoder_22(tmp_path / "decoder", width=8)
    with pytest.raises(ModelError, match="the same version"):
        called(models, "--decoder", str(other))
    blind = save_prior(tmp_path / "prior")
    for file in (blind / "image_encoder").iterdir():
        file.unlink()
    (blind / "image_encoder").rmdir()
    with pytest.raises(UnsupportedModelError, match="image encoder"):
        called(models, "--prior", str(blind))


@pytest.mark.slow
def test_a_whole_run_has_its_tables_and_is_not_made_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = tmp_path / "sheet.jpg"
    monkeypatch.setattr(lab, "sheet_path", lambda page: sheet)
    more = ["--blip2", str(models / "blip2"), "--cells", str(tmp_path / "cells")]
    result = called(models, *more)
    assert "these figures mean nothing" in page_of(result)
    assert [row["row"] for row in result.table("similarity").rows] == list(VARIANTS)
    assert sheet.is_file()
    (folder,) = (tmp_path / "cells" / "conceptlab").iterdir()
    drawn: dict[str, bytes] = {}
    for one in cells_of((PET,), (PROMPTED, WORDS), QUICK):
        (file,) = folder.glob(f"{one.file}-*.pictures.safetensors")
        drawn[one.variant] = file.read_bytes()
    assert drawn[PROMPTED] != drawn[WORDS]
    assert [row["variant"] for row in result.table("times").rows] == list(LEARNED)

    def never(*_: object, **more: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(lab, "invent", never)
    monkeypatch.setattr(Networks, "image_generator", lambda *_: None)
    again = called(models, *more)
    assert [s.table for s in again.sections] == [s.table for s in result.sections]
    # Who answers is nothing to those that do not ask.
    without = called(models, *more[2:])
    assert ADAPTIVE not in [row["row"] for row in without.table("similarity").rows]
