"""A method is found by its folder: in `train --method`, its options, help, batches and errors."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conceptloom import methods
from conceptloom.concepts.concept_file import load_concept
from conceptloom.methods.registry import method_options, method_specs, settings_of_preset

from .quick import Command

SIXTH = Path(__file__).resolve().parents[2] / "sixth_method"


@pytest.fixture(autouse=True)
def sixth_method(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("methods")
    shutil.copytree(SIXTH, folder / "textual_inversion")
    methods.__path__.append(str(folder))
    yield
    methods.__path__.remove(str(folder))
    for name in [name for name in sys.modules if "textual_inversion" in name]:
        del sys.modules[name]


def test_it_is_found_and_gone_with_its_folder() -> None:
    assert "textual-inversion" in method_options()
    assert [spec.name for spec in method_specs()][-1] == "textual_inversion"
    assert settings_of_preset("Textual Inversion").config.token_phase.steps == 3000


def test_help_tells_of_it_and_its_settings(command: Command) -> None:
    told = command("train", "--help").output
    words = " ".join(told.replace("\u2502", " ").split())  # without the lines of boxes
    assert "textual-inversion learns the word alone" in words
    assert "--medium" in told
    assert "photo|painting" in told
    assert "\u2500 Textual Inversion \u2500" in told


def test_it_learns(command: Command, pictures: Path, tmp_path: Path) -> None:
    scene = ("-i", pictures / "kitchen.png", "--mask", f"my-mark={pictures / 'mug'}.png:mug")
    quick = ("--token-steps", 1, "--preview-steps", 1, "--gain", 2, "--medium", "painting")
    out = tmp_path / "out"
    result = command(
        "train", "--method", "textual-inversion", *scene, *quick, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    concept = load_concept(out / "concept.safetensors")
    assert concept.method == "textual_inversion"
    assert concept.prompts == ("a painting of <my-mark>",)
    assert concept.recipe["gain"] == 2.0
    refused = command("train", "--method", "clic", *scene, "--gain", 2, "--out", out)
    assert refused.exit_code == 2
    assert "a setting of CLiC" in " ".join(refused.output.split())
