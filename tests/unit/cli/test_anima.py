"""Commands on TinyWorld's Anima; its weights are random."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ..tiny_transformers import random_file

pytest.importorskip("diffusers")

from conceptloom.cli.app import app
from conceptloom.cli.models import open_host
from conceptloom.cli.picture_reader import read_image
from conceptloom.concepts.concept import Concept, LowRank
from conceptloom.concepts.concept_file import save_concept
from conceptloom.host.ports import Role
from conceptloom.host.roles import roles_of
from conceptloom.tinyworld.dit import checkpoint

MODEL = ["--model", "tinyworld-anima"]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = random_file("anima", tmp_path / "world.safetensors")
    monkeypatch.setattr(checkpoint, "CHECKPOINTS", {"anima": file})
    return tmp_path


def random_concept(path: Path, name: str) -> Path:
    """With changes of every layer of the blocks."""
    host, generator = open_host("tinyworld-anima"), torch.Generator().manual_seed(len(name))
    weights = {}
    for weight in host.weight_names():
        if Role.PROJ_OUT in roles_of(weight):
            out, inner = host.weight(weight).shape
            up, down = (torch.randn(s, generator=generator) for s in ((out, 2), (2, inner)))
            weights[weight] = LowRank(up, down / inner**0.5, 0.5)
    vectors = {e: torch.randn(1, n, generator=generator) for e, n in host.encoders.items()}
    base = host.fingerprint
    save_concept(Concept(handles={name: vectors}, weights=weights, base=base, method="test"), path)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments), *MODEL])
    assert result.exit_code == 0, result.output
    return result.output


def test_two_concepts_are_woven(world: Path, pictures: Path):
    concepts = [random_concept(world / f"{n}.safetensors", n) for n in ("my-one", "my-other")]
    regions = [
        f"{word}={concept},{pictures / word}.png"
        for word, concept in zip(("mug", "robot"), concepts, strict=True)
    ]
    told = run(
        "weave", pictures / "kitchen.png", "-s", "a photo of a mug and a robot", "--steps", 4,
        "-r", regions[0], "-r", regions[1], "-o", world / "woven.png",
    )  # fmt: skip
    assert "<my-one>: a photo of a <my-one>" in told
    assert "reconstruction of the template" in told
    assert read_image(world / "woven.png").shape == (128, 128, 3)
