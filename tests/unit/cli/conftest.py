"""A scene on disk, and the command line to teach it with; steps are few and pictures small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers", reason="the command line draws with diffusers")
testing = pytest.importorskip("typer.testing", reason="pip install 'conceptloom[cli]'")

from conceptloom.cli.app import app  # noqa: E402
from conceptloom.tinyworld.concepts import concept_scene  # noqa: E402

from .quick import QUICK, masks_of  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models lose more by handing work between threads than they win, and sums differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kitchen.png with the masks mug.png and robot.png, and some that are wrong."""
    folder = tmp_path_factory.mktemp("pictures")
    scene = concept_scene(["mug1", "robot1"], seed=3, background="grass")
    masks = (scene.masks * 255).astype(np.uint8)
    Image.fromarray(scene.image).save(folder / "kitchen.png")
    for name, mask in zip(("mug", "robot"), masks, strict=True):
        Image.fromarray(mask).save(folder / f"{name}.png")
    Image.fromarray(masks[0][40:]).save(folder / "wide.png")
    Image.fromarray(np.zeros_like(masks[0])).save(folder / "empty.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture(scope="session")
def learned(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a run of two steps."""
    out = tmp_path_factory.mktemp("learned")
    scene = ("-i", pictures / "kitchen.png", *masks_of(pictures))
    arguments = ("train", *scene, *QUICK, "--preview-every", 1, "--out", out)
    result = testing.CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return out
