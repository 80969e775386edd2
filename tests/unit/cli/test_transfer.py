"""`conceptloom transfer`: the photograph stays outside of the mask, and bad wishes are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .quick import Command

SHORT = ("--steps", 3, "--start", 1)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_outside_of_the_mask_the_photograph_stays(
    command: Command, learned: Path, pictures: Path, tmp_path: Path
) -> None:
    source, mask = pictures / "kitchen.png", pictures / "mug.png"
    wishes = ("-i", source, "--mask", mask, "-c", learned / "concept.safetensors")
    wishes += ("-p", "a photo of <my-robot>", *SHORT, "--seed", 3)
    plain, guided = tmp_path / "plain.png", tmp_path / "guided"
    result = command("transfer", *wishes, "-o", plain)
    assert result.exit_code == 0, result.output
    result = command("transfer", *wishes, "--guide", "<my-robot>", "--guide-eta", 0.1, "-o", guided)
    assert result.exit_code == 0, result.output
    outside = pixels(mask) == 0
    for file in (plain, tmp_path / "guided.png"):
        assert np.array_equal(pixels(file)[outside], pixels(source)[outside])
        assert not np.array_equal(pixels(file), pixels(source))
    assert not np.array_equal(pixels(plain), pixels(tmp_path / "guided.png"))


def test_several_masks_have_prompts_of_their_own(
    command: Command, pictures: Path, tmp_path: Path
) -> None:
    masks = [part for name in ("mug", "robot") for part in ("--mask", pictures / f"{name}.png")]
    prompts = ("-p", "a red circle", "-p", "a blue square", "--guide", "circle")
    out = tmp_path / "two.png"
    more = ("--harmonise-steps", 1, "--plain", "a circle", "--count", 2, "--no-composite")
    result = command(
        "transfer", "-i", pictures / "kitchen.png", *masks, *prompts, *SHORT, *more, "-o", out
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two-01.png", "two-02.png"]


BAD = {
    "no mask file": (["--mask", "nowhere.png"], "nowhere.png"),
    "empty mask": (["--mask", "empty.png"], "empty"),
    "mask of another size": (["--mask", "wide.png"], "same aspect"),
    "all steps skipped": (["--mask", "mug.png", "--start", 3], "start is 3"),
    "handle unknown": (["--mask", "mug.png", "-p", "a <my-cat>"], "2 prompts came for 1 masks"),
    "word not in the prompt": (
        ["--mask", "mug.png", "--guide", "dog"],
        "No prompt contains 'dog'",
    ),
    "photograph too small": (["--mask", "mug.png", "-i", "dot.png"], "multiples of 8"),
}


@pytest.mark.parametrize(("options", "told"), BAD.values(), ids=BAD.keys())
def test_bad_wishes_are_reported(
    command: Command,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(pictures)
    out = tmp_path / "x.png"
    wishes = ("-i", "kitchen.png", "-p", "a circle", "--steps", 3)
    result = command("transfer", *wishes, *options, "-o", out)
    assert result.exit_code == 2, result.output
    assert told in result.output
    assert not out.exists()


def test_colours_under_transparency_stay_hidden(
    command: Command, pictures: Path, tmp_path: Path
) -> None:
    mask = pixels(pictures / "mug.png")[..., 0]
    photograph = Image.open(pictures / "kitchen.png").convert("RGB")
    opacity = np.full(mask.shape, 255, np.uint8)
    opacity[:8] = 0  # pure red lies under it
    values = np.where(opacity[..., None] == 0, np.uint8([255, 0, 0]), np.asarray(photograph))
    hidden = Image.fromarray(values)
    hidden.putalpha(Image.fromarray(opacity))
    hidden.save(tmp_path / "hidden.png")
    out = tmp_path / "out.png"
    wishes = ("--mask", pictures / "mug.png", "-p", "a red circle", *SHORT)
    result = command("transfer", "-i", tmp_path / "hidden.png", *wishes, "-o", out)
    assert result.exit_code == 0, result.output
    outside = (mask == 0) & (opacity == 0)
    assert outside.any()
    assert (pixels(out)[outside] == 255).all()  # white, as the help says


def test_the_help_says_what_shows_through(command: Command) -> None:
    for name in ("transfer", "train", "train-residuals", "weave"):
        told = " ".join(command(name, "--help").output.replace("\u2502", " ").split())
        assert "Transparent parts become white." in told, name
