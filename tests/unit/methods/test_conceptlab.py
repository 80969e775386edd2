"""ConceptLab: what inventing and mixing learn, on a tiny prior of the real classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from conceptloom.errors import HandleError
from conceptloom.methods.conceptlab import (
    ConceptKind,
    Initialiser,
    NegativesConfig,
    invent,
    text_space_config,
)
from conceptloom.vision.clip_space import ClipSpace
from conceptloom.vision.generators import HostImageGenerator

from ..tiny_models import tiny_host
from ..vision.tiny_prior import WIDTH, tiny_prior
from .conceptlab_cases import CONFIG, Answers, Swatches


def test_answers_become_constraints_of_later_steps() -> None:
    questions = Answers("a dog", "the cat", "Dogs")
    made = invent(tiny_prior(), "new", CONFIG, image_generator=Swatches(), questions=questions)
    assert questions.asked == ["What kind of pet is in this photo?"] * 3
    assert [one.added for one in made.rounds] == ["dog", "cat", ""]
    assert made.negatives == ["dog", "cat"]
    columns = [{k for k in row if k.startswith("similarity")} for row in made.history]
    assert columns[0] == {"similarity pet", "similarity dog"}
    assert columns[3] == {"similarity pet", "similarity dog", "similarity cat"}
    assert made.checkpoints.steps == [0, 3, 6, 7]
    assert made.samples is not None
    assert made.samples.shape == (2, 8, 8, 3)
    assert made.concept.recipe["final_negatives"] == ["dog", "cat"]
    assert made.concept.method == "conceptlab"


def test_the_total_is_the_sum_of_its_terms_and_similarities_do_not_count() -> None:
    made = invent(tiny_prior(), "new", CONFIG, image_generator=Swatches(), questions=Answers("dog"))
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
        kind=ConceptKind.STYLE,
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
    mean = invent(space, "new", config, image_generator=Swatches())
    first = invent(
        space, "new", replace(config, initialiser=Initialiser.FIRST), image_generator=Swatches()
    )
    width = {"clip_l": WIDTH}
    torch.testing.assert_close(
        mean.checkpoints.vectors(0, width)["clip_l"], rows.mean(0, keepdim=True)
    )
    torch.testing.assert_close(first.checkpoints.vectors(0, width)["clip_l"], rows[:1])


def test_a_name_that_is_no_handle_is_refused() -> None:
    with pytest.raises(HandleError):
        invent(tiny_prior(), "new pet", CONFIG)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_without_a_prior_it_learns_in_the_base_models_own_text_space(family: str) -> None:
    host = tiny_host(family)
    config = replace(text_space_config(CONFIG), steps=2)
    image_generator = HostImageGenerator(host, steps=1, cfg=2.0, size=(32, 32))
    made = invent(
        ClipSpace(host), "new", config, image_generator=image_generator, questions=Answers("dog")
    )
    assert made.concept.base == host.fingerprint
    assert set(made.concept.handles["new"]) == set(host.encoders)
    assert made.samples is not None
    assert made.samples.shape == (2, 32, 32, 3)
