"""A method is found by its folder: in the trainer's presets, with a widget for each setting."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor import Executor, pack_nodes
from scene_graphs import train
from tiny_models import Graph

TRAINER = "ConceptLoomCrossAttentionLossTrainer"
SIXTH = Path(__file__).resolve().parents[1] / "sixth_method"


@pytest.fixture(autouse=True)
def sixth_method(tmp_path: Path) -> Iterator[None]:
    shutil.copytree(SIXTH, tmp_path / "textual_inversion")
    pack = pack_nodes()[TRAINER].__module__.removesuffix(".nodes.trainer")
    methods: Any = sys.modules[f"{pack}.methods"]
    methods.__path__.append(str(tmp_path))
    yield
    methods.__path__.remove(str(tmp_path))
    for name in [name for name in sys.modules if "textual_inversion" in name]:
        del sys.modules[name]


def test_the_trainer_lists_its_preset_with_its_widgets():
    schema = pack_nodes()[TRAINER].define_schema()
    preset = next(given for given in schema.inputs if given.id == "preset")
    (option,) = [option for option in preset.options if option.key == "Textual Inversion"]
    assert [knob.id for knob in option.inputs] == [
        "token_steps", "token_rate", "medium", "gain", "resolution_px", "checkpointing",
        "batch_size", "accumulation", "max_grad_norm", "weight_decay", "save_every",
    ]  # fmt: skip
    medium, gain = option.inputs[2:4]
    assert (medium.options, medium.default) == (["photo", "painting"], "photo")
    assert (gain.min, gain.max, gain.step, gain.advanced) == (0.1, 10.0, 0.1, True)
    assert "Textual Inversion: the name and nothing else." in preset.tooltip


def test_the_trainer_learns_by_it(executor: Executor, sd1: Graph):
    result = train(
        executor, sd1, preset="Textual Inversion", preset__token_steps=1, preset__gain=2.0,
        preset__medium="painting", preset__resolution_px=0,
    )  # fmt: skip
    assert result.error == ""
    concept = result.values["concept"]
    assert concept.method == "textual_inversion"
    assert concept.recipe["gain"] == 2.0
    assert concept.prompts == ("a painting of <my-mug>", "a painting of <my-toy>")
