"""ConceptLab's equations, templates and adaptive negatives, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from conceptloom.errors import ConfigError
from conceptloom.methods.conceptlab.config import (
    ConceptKind,
    ConceptLabConfig,
    EvolutionConfig,
    NegativesConfig,
    check_parents,
    style_config,
)
from conceptloom.methods.conceptlab.losses import (
    cosines,
    mix_loss,
    negative_loss,
    positive_loss,
    shares,
)
from conceptloom.methods.conceptlab.questions import Negatives, normalised, question_for, same_word
from conceptloom.methods.conceptlab.templates import (
    OBJECTS,
    STYLES,
    filled,
    random_template,
    without_style,
)


def test_the_positive_term_stops_at_its_ceiling() -> None:
    value = positive_loss(torch.tensor([0.2, 0.9]), torch.tensor([0.25, 0.75]), ceiling=0.28)
    assert float(value) == pytest.approx(0.25 * 0.8 + 0.75 * 0.72)


def test_the_negative_term_is_half_of_mean_and_maximum() -> None:
    value = negative_loss(torch.tensor([0.1, 0.3, 0.5]), floor=0.2)
    assert float(value) == pytest.approx(0.5 * ((0.2 + 0.3 + 0.5) / 3 + 0.5))
    assert float(negative_loss(torch.zeros(0), floor=0.2)) == 0.0


def test_nothing_pulls_where_every_constraint_is_met() -> None:
    near = torch.tensor([0.28, 0.4], requires_grad=True)
    far = torch.tensor([0.2, -0.3, 0.1], requires_grad=True)
    loss = negative_loss(far, 0.2) + positive_loss(near + 1e-6, shares((), 2), 0.28)
    loss.backward()
    assert near.grad is not None
    assert far.grad is not None
    assert not near.grad.any()
    assert float(far.grad[1:].abs().sum()) == 0.0


def test_the_nearest_negative_is_pushed_hardest() -> None:
    far = torch.tensor([0.3, 0.5, 0.4], requires_grad=True)
    negative_loss(far, 0.2).backward()
    assert far.grad is not None
    assert far.grad.tolist() == pytest.approx([1 / 6, 1 / 6 + 0.5, 1 / 6])


def test_cosines_do_not_depend_on_length() -> None:
    targets = torch.tensor([[3.0, 0.0], [0.0, 0.1], [5.0, 5.0]])
    assert cosines(targets, torch.tensor([2.0, 0.0])).tolist() == pytest.approx([1, 0, 0.5**0.5])


def test_mixing_weighs_the_parents() -> None:
    value = mix_loss(torch.tensor([0.5, 0.1]), shares((3.0, 1.0), 2))
    assert float(value) == pytest.approx(1 - (0.75 * 0.5 + 0.25 * 0.1))


def test_every_template_takes_a_concept_and_objects_have_photos_as_often_as_edits() -> None:
    assert len(OBJECTS) == 18
    assert len(STYLES) == 20
    assert sum("photo of {a} {concept}" in text and "close" not in text for text in OBJECTS) == 9
    assert all("{concept}" in text for text in (*OBJECTS, *STYLES))
    drawn = {random_template(OBJECTS, torch.Generator().manual_seed(i)) for i in range(60)}
    assert {text for text in drawn if "{a}" in text} == set()
    assert {"A photo of a {concept}", "A photo of my {concept}"} & drawn
    assert filled("a photo of {a} {concept}", "<mug>") == "a photo of a <mug>"
    assert without_style("a painting of a dog in the style of {concept}") == "a painting of a dog"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("a dog", "dog"),
        ("  The Dog. ", "dog"),
        ("it is a german shepherd!", "german shepherd"),
        ("an owl", "owl"),
        ("", ""),
        ("...", ""),
        ("a", "a"),
    ],
)
def test_answers_become_plain_words(answer: str, word: str) -> None:
    assert normalised(answer) == word


def test_a_plural_is_the_same_word() -> None:
    assert same_word("Dogs", "a dog")
    assert not same_word("cat", "dog")


def negatives(**settings: Any) -> Negatives:
    config = ConceptLabConfig(negatives=NegativesConfig(**settings))
    made = Negatives({}, config)
    made.begin()
    return made


def test_answers_are_added_once_and_never_the_category() -> None:
    kept = negatives(forbidden=("animal",))
    added = [
        kept.heard(i * 250, text).added
        for i, text in enumerate(["a dog", "Dogs.", "pet", "", "an animal", "cat"])
    ]
    assert added == ["dog", "", "", "", "", "cat"]
    assert kept.words == ["dog", "cat"]
    assert "category" in kept.rounds[2].summary()


def test_the_official_way_keeps_duplicates() -> None:
    kept = negatives(keep_duplicates=True)
    for step, answer in enumerate(["a dog", "a dog", "pet"]):
        kept.heard(step, answer)
    assert kept.words == ["dog", "dog", "pet"]
    assert negatives(keep_duplicates=True, forbidden=("animal",)).heard(0, "an Animal.").added == ""


def test_a_run_that_goes_on_knows_the_same_words_and_what_was_asked() -> None:
    kept = negatives(locked=("wolf",))
    assert kept.is_due(0)
    assert not kept.asks_at(0)  # a list was given
    kept.heard(0, None)
    kept.heard(250, "a dog")
    again = Negatives(kept.notes, kept._config)
    again.begin()
    assert again.words == ["wolf", "dog"]
    assert not again.is_due(250)
    assert again.is_due(500)


def test_the_oldest_leaves_when_there_are_too_many_but_locked_words_stay() -> None:
    kept = negatives(locked=("wolf",), start=("dog",), most=3)
    for step, word in enumerate(["cat", "bird", "fish"]):
        kept.heard(step, word)
    assert kept.words == ["wolf", "bird", "fish"]
    assert negatives(start=("dog", "cat", "bird"), most=2).words == ["cat", "bird"]


def test_a_gradual_list_grows_by_one_and_is_shuffled_by_the_seed() -> None:
    kept = negatives(start=("dog", "cat", "bird"), gradual=True)
    assert len(kept.words) == 1
    assert not kept.asks_at(250)
    sizes = []
    for step in (0, 250, 500, 750):
        kept.heard(step, None)
        sizes.append(len(kept.words))
    assert sizes == [1, 2, 3, 3]
    assert set(kept.words) == {"dog", "cat", "bird"}


def test_it_has_enough_when_answers_repeat() -> None:
    kept = negatives(early_stop=2)
    kept.heard(0, "dog")
    kept.heard(250, "dog")
    assert not kept.has_enough
    kept.heard(500, "the dog")
    assert kept.has_enough


def test_the_question_is_the_papers_or_the_users() -> None:
    config = ConceptLabConfig(positives=("kind of fruit",))
    assert question_for(config) == "What kind of kind of fruit is in this photo?"
    assert "art style" in question_for(style_config(config))
    asked = replace(config, negatives=NegativesConfig(question="What is it?"))
    assert question_for(asked) == "What is it?"
    assert style_config(config).negative_floor == 0.15
    assert style_config(config).kind is ConceptKind.STYLE


@pytest.mark.parametrize(
    "wrong",
    [
        {"positives": ()},
        {"positives": (" ",)},
        {"weights": (0.5, 0.5)},
        {"weights": (0.0,)},
        {"steps": 0},
        {"positive_ceiling": 1.5},
        {"templates": ("a photo",)},
        {"negatives": NegativesConfig(start=("Pet",))},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ConceptLabConfig(**wrong)


def test_parents_and_weights_have_to_fit() -> None:
    check_parents(EvolutionConfig(weights=(1.0, 2.0)), 2)
    with pytest.raises(ConfigError, match="3 numbers"):
        check_parents(EvolutionConfig(weights=(1.0, 2.0)), 3)
    with pytest.raises(ConfigError, match="parents"):
        check_parents(EvolutionConfig(), 0)
