"""ConceptLab's evolution: a child of concepts and photographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.methods.conceptlab import EvolutionConfig, Parent, describe_lineage, evolve

from ..vision.tiny_prior import tiny_prior
from .conceptlab_cases import SAMPLING, Swatches


def parents() -> list[Parent]:
    generator = torch.Generator().manual_seed(0)
    return [
        Parent("left", torch.rand(3, 16, 16, 3, generator=generator), {}),
        Parent(
            "right",
            torch.rand(2, 16, 16, 3, generator=generator),
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
    made = evolve(tiny_prior(), "child", parents(), EVOLUTION, image_generator=Swatches())
    row = made.history[0]
    expected = 1 - 0.75 * row["similarity left"] - 0.25 * row["similarity right"]
    assert row["total"] == pytest.approx(expected, abs=1e-6)
    assert made.checkpoints.steps == [0, 2, 4, 5]
    path = save_concept(made.concept, tmp_path / "child.safetensors")
    told = describe_lineage("child", load_concept(path).recipe)
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
