"""`conceptloom import-lora`, and what it writes under `sample`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from conceptloom.cli.app import app
from conceptloom.concepts.concept_file import load_concept
from conceptloom.host.diffusers.host import DiffusersHost

from .test_local_lora import LINEAR, random_lora

PROMPT = "a photo of a <dot> blue circle and a green square on white"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with its picture beside it, and the concept of it."""
    place = tmp_path_factory.mktemp("loras")
    tensors = random_lora(DiffusersHost.tinyworld(), 1, LINEAR)
    save_file(tensors, place / "lora.safetensors", {"modelspec.trigger_phrase": "dot"})
    Image.new("RGB", (32, 32), (0, 0, 255)).save(place / "lora.png")
    done = run(
        "import-lora", f"{place}/lora.safetensors", "--words", "blue circle", "--out",
        f"{place}/dot.safetensors",
    )  # fmt: skip
    assert done == 0
    return place


def run(*call: str) -> int:
    result = CliRunner().invoke(app, list(call), catch_exceptions=False)
    run.output = " ".join(result.output.split())  # type: ignore[attr-defined]
    return result.exit_code


def sample(folder: Path, *more: str, out: str, prompt: str = PROMPT) -> torch.Tensor:
    done = run(
        "sample", "--steps", "5", "--prompt", prompt, "--size", "64", "--out", f"{folder}/{out}",
        *more,
    )  # fmt: skip
    assert done == 0
    with Image.open(folder / out) as picture:
        return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).float()


def test_the_file_has_handle_words_and_picture(folder: Path):
    concept = load_concept(folder / "dot.safetensors")
    assert concept.names == ["dot"]
    assert concept.words == {"dot": "blue circle"}
    assert concept.thumbnail is not None
    assert concept.thumbnail.shape == (32, 32, 3)


def test_it_draws_everywhere_or_in_its_place(folder: Path):
    concept = f"{folder}/dot.safetensors"
    everywhere = sample(folder, "--concept", concept, out="everywhere.png")
    local = sample(folder, "--concept", concept, "--lag", "--masks", out="local.png")
    off = sample(folder, "--concept", f"{concept}:0", "--lag", out="off.png")
    assert (folder / "local-masks.png").exists()
    changed = [(one - off).abs().mean() for one in (everywhere, local)]
    assert changed[0] > changed[1] > 1


def test_it_is_the_localised_lora(folder: Path):
    """The handle stands for the trigger, so both ways draw the same picture."""
    concept = sample(folder, "-c", f"{folder}/dot.safetensors", "--lag", out="one.png")
    option = f"{folder}/lora.safetensors=dot|blue circle"
    lora = sample(
        folder, "--local-lora", option, out="two.png", prompt=PROMPT.replace("<dot>", "dot")
    )
    assert float((concept - lora).abs().max()) <= 2


def test_two_with_the_same_words_are_told_apart_or_refused(folder: Path):
    prompt = "a dot blue circle and a ring blue circle on white"
    options = [f"{folder}/lora.safetensors:0.5={t}blue circle" for t in ("dot|", "ring|")]
    one = sample(
        folder, "--local-lora", options[0], "--local-lora", options[1], out="3.png", prompt=prompt
    )
    other = sample(
        folder, "--local-lora", options[1], "--local-lora", options[0], out="4.png", prompt=prompt
    )
    assert torch.equal(one, other)
    call = ["sample", "--prompt", prompt, "--out", f"{folder}/5.png"]
    plain = f"{folder}/lora.safetensors:0.3=blue circle"
    assert run(*call, "--local-lora", options[0], "--local-lora", plain) == 2
    assert "trigger word" in run.output  # type: ignore[attr-defined]


def test_what_is_missing_is_named(folder: Path):
    assert run("import-lora", f"{folder}/lora.safetensors", "--words", " ") == 2
    assert "words" in run.output  # type: ignore[attr-defined]
    assert run("import-lora", f"{folder}/none.safetensors", "--words", "circle") == 2
