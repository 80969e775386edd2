"""One sentence, the prompts of all regions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conceptloom.concepts.concept import Concept
from conceptloom.errors import PromptError
from conceptloom.methods.concept_weaver.prompts import Subject, marked_word, weave_prompts


def regions(sentence: str, *words: str) -> list[str]:
    subjects = [Subject(word, f"<c{i}> {word}") for i, word in enumerate(words, 1)]
    return list(weave_prompts(sentence, subjects).regions)


def test_the_papers_example() -> None:
    sentence = "A dog and a cat playing with a ball, mountain background"
    subjects = [Subject("dog", "<c1> dog"), Subject("cat", "<c2> cat")]
    found = weave_prompts(sentence, subjects, Subject("mountain", "<bg> mountain"))
    assert found.base == sentence
    assert found.regions == (
        "A <c1> dog playing with a ball, mountain background",
        "a <c2> cat playing with a ball, mountain background",
    )
    assert found.background == ("A dog and a cat playing with a ball, <bg> mountain background")


@pytest.mark.parametrize(
    ("sentence", "words", "expected"),
    [
        (
            "a dog, a cat and a bird in the park",
            ("dog", "cat", "bird"),
            ["a <c1> dog in the park", "a <c2> cat in the park", "a <c3> bird in the park"],
        ),
        (
            "a photo of a red striped circle and a blue square on the grass",
            ("circle", "blue square"),
            [
                "a photo of a red striped <c1> circle on the grass",
                "a photo of a <c2> blue square on the grass",
            ],
        ),
        (
            "a dog beside an owl, oil painting",
            ("dog", "owl"),
            ["a <c1> dog, oil painting", "a <c2> owl, oil painting"],
        ),
        (
            "a circle and a circle at night",
            ("circle", "circle"),
            ["a <c1> circle at night", "a <c2> circle at night"],
        ),
        ("an owl at night", ("owl",), ["a <c1> owl at night"]),
        ("dog and cat", ("dog", "cat"), ["<c1> dog", "<c2> cat"]),
        (
            "a dog and a cat, (sunset:0.8), f/1.8 [bokeh]",
            ("dog", "cat"),
            [
                "a <c1> dog, (sunset:0.8), f/1.8 [bokeh]",
                "a <c2> cat, (sunset:0.8), f/1.8 [bokeh]",
            ],
        ),
        (
            "two dogs and a cat with its kitten",
            ("dogs", "cat", "kitten"),
            ["two <c1> dogs", "a <c2> cat", "its <c3> kitten"],
        ),
        (
            "a man holding a mug next to a plant, kitchen background",
            ("man", "mug", "plant"),
            [
                "a <c1> man, kitchen background",
                "a <c2> mug, kitchen background",
                "a <c3> plant, kitchen background",
            ],
        ),
        (
            "a dog in the park with a cat at night",
            ("cat", "dog"),
            ["a <c1> cat at night", "a <c2> dog at night"],
        ),
        ("a photo of dog and cat", ("dog", "cat"), ["a photo of <c1> dog", "a photo of <c2> cat"]),
        ("a <my-hat> hat, a hat-stand", ("hat",), ["a <my-hat> <c1> hat, a hat-stand"]),
        ("a big, old dog, an owl", ("big, old dog", "owl"), ["a <c1> big, old dog", "a <c2> owl"]),
        (
            "a (red dog:1.2) and an ((owl)) in a (park:1.1)",
            ("dog", "owl"),
            ["a (red <c1> dog:1.2) in a (park:1.1)", "a ((<c2> owl)) in a (park:1.1)"],
        ),
    ],
)
def test_a_region_names_its_own_concept_only(
    sentence: str, words: tuple[str, ...], expected: list[str]
) -> None:
    assert regions(sentence, *words) == expected


def test_without_a_background_concept_its_prompt_is_the_sentence() -> None:
    assert weave_prompts("a dog", [Subject("dog", "<c1>")]).background == "a dog"


def test_a_word_that_the_sentence_lacks_is_reported() -> None:
    with pytest.raises(PromptError, match="does not contain 'cat'"):
        regions("a dog in the park", "dog", "cat")
    with pytest.raises(PromptError, match="does not contain 'dog' once more"):
        regions("a dog in the park", "dog", "dog")


def test_a_concept_is_called_as_it_was_trained() -> None:
    def concept(*prompts: str) -> Concept:
        return Concept(handles={}, base="", method="", prompts=prompts)

    assert marked_word(concept("photo of a <c1> Dog"), "c1", "dog") == "<c1> dog"
    assert marked_word(concept("a photo of <c1>"), "c1", "dog") == "<c1>"
    assert marked_word(None, "", "dog") == "dog"
    assert marked_word(concept("photo of a <c1> dog"), "c1", "brown dog") == "<c1> dog"
    taught = replace(concept("photo of a <c1> dog"), words={"c1": "dog"})
    assert marked_word(taught, "c1", "brown dog") == "<c1> dog"
    assert marked_word(taught, "c1", "animal") == "<c1> dog"
