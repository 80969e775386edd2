"""TinyWorld's prior and its oracle as a question answerer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from conceptloom.errors import ModelError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.tinyworld import checkpoint
from conceptloom.tinyworld.concepts import item
from conceptloom.tinyworld.prior import load_tiny_prior
from conceptloom.tinyworld.questions import OracleVQA
from conceptloom.tinyworld.recipe import prior as recipe
from conceptloom.tinyworld.shapes import SHAPES
from conceptloom.tinyworld.world import render
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
    vectors = {"new": {"clip_l": host.word_vectors("ring")["clip_l"].requires_grad_()}}
    generator = torch.Generator().manual_seed(0)
    with space.computing():
        imagined = space.imagine("a photo of a <new>", vectors, generator, PriorSampling(steps=2))
        imagined.sum().backward()
    gradient = vectors["new"]["clip_l"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert imagined.shape == space.meanings(["a ring"])[0].shape
    assert space.fingerprint == host.fingerprint
    ceiling, floor = tiny.clamps
    assert -1 <= floor <= 1
    assert -1 <= ceiling <= 1


def test_the_shipped_prior_imagines_what_is_said() -> None:
    """Of all named shapes the one of the prompt is nearest, and another colour is far."""
    tiny, host = load_tiny_prior(), DiffusersHost.tinyworld()
    space = prior_on_host(
        host,
        prior=tiny.prior,
        vision=tiny.vision,
        projection=tiny.projection,
        scheduler=tiny.scheduler,
    )
    words = [*SHAPES, "red object", "blue object"]
    meanings = space.meanings([f"a photo of a {word}" for word in words])
    with torch.no_grad():
        for number, word in enumerate(words):
            generator = torch.Generator().manual_seed(0)
            imagined = space.imagine(f"a photo of a {word}", {}, generator, PriorSampling())
            assert int((meanings @ imagined).argmax()) == number, word


def test_the_shipped_image_encoder_sees_what_words_say() -> None:
    """Captions find their own among 256 unseen pictures far more often than by chance (0.004)."""
    figures = load_tiny_prior().figures
    assert figures["retrieval"] > 0.3
    assert figures["prior_retrieval"] > 0.25
    assert figures["matched"] > figures["unmatched"] + 0.4


def test_all_weights_of_the_world_together_stay_below_12_mb(made: Path) -> None:
    folder = checkpoint.CHECKPOINT.parent
    shipped = [f for f in folder.glob("*.safetensors") if f.name != "prior.safetensors"]
    assert sum(f.stat().st_size for f in (*shipped, made)) < 12e6


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"recipe\.prior --install"):
        load_tiny_prior(tmp_path / "prior.safetensors")


def picture(words: str) -> torch.Tensor:
    rng = np.random.default_rng(0)
    image, _ = render([item(words, (0.5, 0.5, 0.3), rng)], "white", rng)
    return torch.from_numpy(image).float() / 255


def test_the_oracle_answers_in_a_word() -> None:
    asked, ring = OracleVQA(), picture("red striped ring")
    assert asked.answer(ring, "What kind of object is in this photo?") == "ring"
    assert asked.answer(ring, "What colour is this?") == "red"
    assert asked.answer(ring, "What texture is this?") == "striped"
    assert asked.answer(ring, "Where is it?") == "white"
    rng = np.random.default_rng(0)
    empty = torch.from_numpy(render([], "white", rng)[0]).float() / 255
    assert asked.answer(empty, "What shape is this?") == ""
