"""`conceptloom weave` on the bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conceptloom.cli.picture_files import write_picture
from conceptloom.cli.picture_reader import read_image
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.errors import InputError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.tinyworld.concepts import concept_scene

typer_testing = pytest.importorskip("typer.testing")

from conceptloom.cli.app import app  # noqa: E402
from conceptloom.cli.weave_command import parsed_region  # noqa: E402

SENTENCE = "a photo of a red mug and a blue square"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A template, its masks and a concept of one handle."""
    place = tmp_path_factory.mktemp("weave")
    scene = concept_scene(["red mug", "blue square"], 3, "grass")
    write_picture(torch.from_numpy(scene.image).float() / 255, place / "template.png")
    for name, mask in zip(("mug", "square"), scene.masks, strict=True):
        shown = torch.from_numpy(mask)[..., None].expand(-1, -1, 3)
        write_picture(shown, place / f"{name}.png")
    vectors = torch.randn(1, 128, generator=torch.Generator().manual_seed(0))
    base = DiffusersHost.tinyworld().fingerprint
    concept = Concept(handles={"my-thing": {"clip_l": vectors}}, base=base, method="test")
    save_concept(concept, place / "thing.safetensors")
    return place


def test_a_picture_is_woven_and_reported(folder: Path) -> None:
    command = ["weave", str(folder / "template.png"), "-s", SENTENCE, "--steps", "2"]
    command += ["-o", str(folder / "woven.png")]
    for word in ("mug", "square"):
        command += ["-r", f"{word}={folder / 'thing.safetensors'},{folder / f'{word}.png'}"]
    result = typer_testing.CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "<my-thing>: a photo of a red <my-thing>" in result.output
    assert "reconstruction of the template" in result.output
    assert read_image(folder / "woven.png").shape == (128, 128, 3)


@pytest.mark.parametrize("bad", ["circle", "=a,b", "circle=a", "circle=,b"])
def test_regions_that_do_not_read_so_are_refused(bad: str) -> None:
    with pytest.raises(InputError, match="must be WORD=CONCEPT,MASK"):
        parsed_region(bad, load_concept)
