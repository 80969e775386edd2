"""TinyWorld's prior and its judge as a question answerer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from conceptloom.errors import ModelError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.tinyworld.concepts import concept, concept_scene
from conceptloom.tinyworld.members import KINDS
from conceptloom.tinyworld.ornaments import ornament_scene
from conceptloom.tinyworld.prior import load_tiny_prior
from conceptloom.tinyworld.questions import JudgeVQA
from conceptloom.tinyworld.recipe import prior as recipe
from conceptloom.tinyworld.scenes import member_scene
from conceptloom.vision.ports import PriorSampling
from conceptloom.vision.prior_files import prior_on_host


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prior") / "prior.safetensors"
    words = [
        "--scenes",
        "16",
        "--contrast-steps",
        "5",
        "--prior-steps",
        "2",
        "--batch",
        "8",
        "--out",
    ]
    with pytest.MonkeyPatch.context() as patched, torch.random.fork_rng():
        patched.setattr(recipe, "HELD_OUT", 8)
        recipe.train(recipe.parsed([*words, str(out)]))
    return out


def test_one_command_makes_a_prior_that_reads_the_worlds_own_text_encoder(made: Path) -> None:
    tiny, host = load_tiny_prior(made), DiffusersHost.tinyworld()
    space = prior_on_host(
        host,
        prior=tiny.prior,
        vision=tiny.vision,
        projection=tiny.projection,
        scheduler=tiny.scheduler,
    )
    vectors = {"new": {"clip_l": host.word_vectors("mug")["clip_l"].requires_grad_()}}
    generator = torch.Generator().manual_seed(0)
    with space.computing():
        imagined = space.imagine("a photo of a <new>", vectors, generator, PriorSampling(steps=2))
        imagined.sum().backward()
    gradient = vectors["new"]["clip_l"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert imagined.shape == space.meanings(["a mug"])[0].shape
    assert space.fingerprint == host.fingerprint
    ceiling, floor = tiny.clamps
    assert -1 <= floor <= 1
    assert -1 <= ceiling <= 1


def test_the_shipped_prior_imagines_what_is_said() -> None:
    """Of all classes the one of the prompt is nearest, nearly always, and of two colours."""
    tiny, host = load_tiny_prior(), DiffusersHost.tinyworld()
    space = prior_on_host(
        host,
        prior=tiny.prior,
        vision=tiny.vision,
        projection=tiny.projection,
        scheduler=tiny.scheduler,
    )
    words = [*KINDS, "red object", "blue object"]
    meanings = space.meanings([f"a photo of a {word}" for word in words])
    right = {}
    with torch.no_grad():
        for number, word in enumerate(words):
            generator = torch.Generator().manual_seed(0)
            imagined = space.imagine(f"a photo of a {word}", {}, generator, PriorSampling())
            right[word] = int((meanings @ imagined).argmax()) == number
    assert sum(right.values()) >= len(words) - 3, right


def test_the_shipped_image_encoder_sees_what_words_say() -> None:
    """Captions find their own among 256 unseen pictures far more often than by chance (0.004)."""
    figures = load_tiny_prior().figures
    assert figures["retrieval"] > 0.25
    assert figures["prior_retrieval"] > 0.25
    assert figures["matched"] > figures["unmatched"] + 0.4


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"recipe\.prior --install"):
        load_tiny_prior(tmp_path / "prior.safetensors")


def seen(image: object) -> torch.Tensor:
    return torch.from_numpy(image).float() / 255


def test_the_judge_answers_in_a_word() -> None:
    vqa, shown = JudgeVQA(), seen(concept_scene(["mug1"], 1, "beach").image)
    assert vqa.answer(shown, "What kind of object is in this photo?") == "mug"
    assert vqa.answer(shown, "What colour is this?") == concept("mug1").colour
    assert vqa.answer(shown, "Where is it?") == "beach"
    shape = seen(concept_scene(["blue striped square"], 0, "grass").image)
    assert vqa.answer(shape, "What is this?") == "square"
    assert vqa.answer(shape, "What texture is this?") == "striped"


def test_the_judge_tells_emblems_and_says_nothing_of_an_empty_picture() -> None:
    vqa, said = JudgeVQA(), []
    for kind in ("mug", "house", "castle"):
        star = {"emblem": "star", "style": "flat", "pattern": "plain"}
        one = concept(f"{kind}1").changed(options=star, colours={"mark": "black"})
        said.append(vqa.answer(seen(member_scene([one], 2).image), "Which emblem?"))
    assert said.count("star") >= 2, said
    bare = seen(ornament_scene("red house", "", 1).image)
    assert vqa.answer(bare, "Which symbol is on it?") == "none"
    empty = torch.full((128, 128, 3), 0.96)
    assert vqa.answer(empty, "What is this?") == ""
    assert vqa.answer(empty, "What is the background?") == "white"
