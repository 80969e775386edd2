"""`conceptloom train`: what it leaves, how it stops, and what it says of bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from conceptloom.cli import progress as progress_module
from conceptloom.cli.cancelling import Cancelled
from conceptloom.cli.progress import RunProgress
from conceptloom.cli.scene_files import parsed_mask, scene_from_folder, scene_from_options
from conceptloom.cli.training_run import default_folder
from conceptloom.concepts.concept_file import load_concept
from conceptloom.errors import InputError, MaskError

from .quick import QUICK, Command, masks_of


def test_a_run_leaves_concept_losses_and_pictures(learned: Path) -> None:
    names = {path.name for path in learned.iterdir()}
    pictures = {f"{n}.png" for n in ("scene", "losses", "samples", "attention", "timeline")}
    assert {"concept.safetensors", "losses.csv", "state", *pictures} <= names
    concept = load_concept(learned / "concept.safetensors")
    assert set(concept.handles) == {"my-mug", "my-robot"}
    assert concept.words == {"my-mug": "object", "my-robot": "object"}
    assert len((learned / "losses.csv").read_text().splitlines()) == 3  # header and two steps


def test_the_same_command_again_gives_the_same_bytes(
    command: Command, pictures: Path, learned: Path, tmp_path: Path
) -> None:
    scene = {
        "pictures": [
            {"image": "kitchen.png", "masks": {"my-mug": "mug.png", "my-robot": "robot.png"}}
        ],
        "words": {"my-mug": "object", "my-robot": "object"},
    }
    for name in ("kitchen", "mug", "robot"):
        shutil.copy(pictures / f"{name}.png", tmp_path)
    (tmp_path / "scene.json").write_text(json.dumps(scene))
    out = tmp_path / "out"
    result = command("train", "--scene", tmp_path, *QUICK, "--preview-every", 1, "--out", out)
    assert result.exit_code == 0, result.output
    ours, theirs = (f / "concept.safetensors" for f in (out, learned))
    assert ours.read_bytes() == theirs.read_bytes()


def test_ctrl_c_keeps_the_work_and_the_same_command_goes_on(
    command: Command, pictures: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PressedAfterOne(RunProgress):
        def __call__(
            self, step: int, total: int, message: str = "", preview: object = None
        ) -> None:
            if step == 1 and "loss" in message:
                os.kill(os.getpid(), signal.SIGINT)
            super().__call__(step, total, message, preview)  # pyright: ignore

    arguments = ("train", "-i", pictures / "kitchen.png", *masks_of(pictures), *QUICK)
    arguments = (*arguments, "--preview-every", 1, "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("conceptloom.cli.results.RunProgress", PressedAfterOne)
        stopped = command(*arguments)
    assert stopped.exit_code == 130
    assert "Stopped after step 1 of 2" in stopped.output
    assert "same command" in stopped.output
    assert list(tmp_path.rglob("state-00000001.safetensors"))
    assert not (tmp_path / "concept.safetensors").exists()
    gone_on = command(*arguments)
    assert gone_on.exit_code == 0, gone_on.output
    written = (tmp_path / "concept.safetensors").read_bytes()
    assert written == (learned / "concept.safetensors").read_bytes()


def test_sigterm_while_the_last_pictures_are_drawn_leaves_the_concept(
    command: Command, pictures: Path, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[str] = []

    class PressedWhileDrawing(RunProgress):
        def __call__(
            self, step: int, total: int, message: str = "", preview: object = None
        ) -> None:
            if message == "drawing previews" and not after:
                os.kill(os.getpid(), signal.SIGTERM)
                after.append(message)
            elif after:
                after.append(message)
            super().__call__(step, total, message, preview)  # pyright: ignore

    arguments = ("train", "-i", pictures / "kitchen.png", *masks_of(pictures), *QUICK)
    monkeypatch.setattr("conceptloom.cli.results.RunProgress", PressedWhileDrawing)
    stopped = command(*arguments, "--out", tmp_path)
    assert stopped.exit_code == 130
    assert "Stopped while drawing" in stopped.output
    assert after == ["drawing previews"]
    ours, theirs = (load_concept(f / "concept.safetensors") for f in (tmp_path, learned))
    for name, vectors in theirs.handles.items():
        assert ours.handles[name]["clip_l"].equal(vectors["clip_l"])


def test_no_previews_are_none_at_the_end_either(
    command: Command, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("train", "-i", pictures / "kitchen.png", *masks_of(pictures), *QUICK)
    result = command(*arguments, "--preview-every", 0, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "drawing previews" not in result.output
    assert not (tmp_path / "samples.png").exists()
    assert (tmp_path / "attention.png").is_file()


def test_a_disk_that_fills_up_costs_no_concept(
    command: Command, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The concept goes where temporary files go; nothing else of the run is written."""
    real, rescue = os.fsync, tmp_path / "tmp"
    rescue.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rescue))

    def full(handle: int) -> None:
        if str(rescue) not in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    arguments = ("train", "-i", pictures / "kitchen.png", *masks_of(pictures), *QUICK)
    result = command(*arguments, "--preview-every", 1, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "disk is full" in " ".join(result.output.split())
    (file,) = rescue.rglob("concept.safetensors")
    assert str(file) in result.output.replace("\n", "")
    assert set(load_concept(file).handles) == {"my-mug", "my-robot"}


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Cancelled), RunProgress() as progress:  # noqa: PT012
        assert signal.getsignal(signal.SIGINT) != before
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == before  # a second Ctrl-C stops at once
        progress(1, 2, "handles: loss 1, 0 s left")
    assert signal.getsignal(signal.SIGINT) == before
    assert set(progress_module.SIGNALS) == {signal.SIGINT, signal.SIGTERM}


def test_a_result_that_cannot_be_written_is_reported_before_the_first_step(
    command: Command, pictures: Path, tmp_path: Path
) -> None:
    """Without a disk that says so: names of 90 Korean letters have 270 bytes."""
    out = tmp_path / ("\uac00" * 90)
    result = command(
        "train", "-i", pictures / "kitchen.png", *masks_of(pictures), *QUICK, "--out", out
    )
    assert result.exit_code == 2
    assert "too long" in " ".join(result.output.split())
    assert "loss" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_many_long_names_have_a_folder(tmp_path: Path) -> None:
    names = ["\uac00" * 40, "\ub098" * 40, "\ub2e4" * 40]
    folder, other = default_folder(names), default_folder([*names[:2], "\ub77c"])
    assert len(folder.name.encode()) <= 255
    assert folder != other
    assert default_folder(["my-mug", "my-cat"]) == Path("runs/my-mug-my-cat")


BAD_INPUT = {
    "no picture": ([], ["my-a=mug.png"], "no picture"),
    "no mask": (["kitchen.png"], [], "no mask"),
    "missing picture": (["nowhere.png"], ["my-a=mug.png"], "There is no picture"),
    "missing mask": (["kitchen.png"], ["my-a=nowhere.png"], "There is no mask"),
    "text as picture": (["text.png"], ["my-a=mug.png"], "save it as PNG"),
    "picture of one pixel": (["dot.png"], ["my-a=mug.png"], "1x1 px"),
    "mask of another size": (["kitchen.png"], ["my-a=wide.png"], "a different aspect ratio"),
    "empty mask": (["kitchen.png"], ["my-a=empty.png"], "empty"),
    "same mask twice": (["kitchen.png"], ["my-a=mug.png", "my-b=mug.png"], "same pixels"),
    "handle twice": (["kitchen.png"], ["my-a=mug.png", "my-a=robot.png"], "2 masks for 1"),
    "handle with a space": (["kitchen.png"], ["my a=mug.png"], "cannot be a handle"),
    "no equals sign": (["kitchen.png"], ["mug.png"], "NAME=FILE"),
    "picture twice": (["kitchen.png", "kitchen.png"], ["my-a=mug.png"], "occurs twice"),
}


@pytest.mark.parametrize(("images", "masks", "told"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_scenes_end_with_one_message(
    command: Command, pictures: Path, tmp_path: Path, images: list[str], masks: list[str], told: str
) -> None:
    options: list[object] = []
    for image in images:
        options += ["-i", pictures / image]
    for mask in masks:
        name, equals, file = mask.partition("=")
        options += ["--mask", f"{name}={pictures / file}" if equals else mask]
    out = tmp_path / "out"
    result = command("train", *options, "--out", out)
    assert result.exit_code == 2
    assert told in result.output
    assert "Traceback" not in result.output
    assert not out.exists()


BAD_SETTINGS = {
    "zero steps": (["--token-steps", 0, "--weight-steps", 0], "it must be 1 or more"),
    "negative rate": (["--weight-rate", -1], "weight_rate"),
    "rate that is no number": (["--token-rate", "nan"], "token_rate"),
    "no such level": (["--attention-level", 3], "attention_level"),
    "flip above one": (["--flip", 1.5], "flip"),
    "no such device": (["--device", "toaster"], "device"),
    "no such model": (["--model", "nowhere"], "There is no base model"),
    "two scenes": (["--scene", "."], "not both"),
    "no such form": (["--method", "clic", "--roi-form", "mine"], "mine"),
}


@pytest.mark.parametrize(("options", "told"), BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_bad_settings_end_with_one_message(
    command: Command, pictures: Path, tmp_path: Path, options: list[object], told: str
) -> None:
    scene = ("-i", pictures / "kitchen.png", *masks_of(pictures))
    result = command("train", *scene, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert told in result.output
    assert "Traceback" not in result.output


def test_a_background_beside_a_scene_is_not_dropped(
    command: Command, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "scene.json").write_text("{}")
    result = command("train", "--scene", tmp_path, "--background", "my-room:room")
    assert result.exit_code == 2
    assert "not both" in result.output


def test_debug_shows_where_it_went_wrong(command: Command) -> None:
    result = command("--debug", "train", "-i", "nowhere.png", "--mask", "my-a=nowhere.png")
    assert isinstance(result.exception, InputError)


def test_masks_are_read_from_options() -> None:
    assert parsed_mask("my-mug=mug.png:cup") == ("my-mug", "mug.png", "cup")
    assert parsed_mask("<my-mug>=mug.png") == ("my-mug", "mug.png", "")
    assert parsed_mask("my-mug=C:/mug.png") == ("my-mug", "C:/mug.png", "")
    assert parsed_mask("my-mug=C:/mug.png:coffee cup") == ("my-mug", "C:/mug.png", "coffee cup")
    with pytest.raises(MaskError):
        parsed_mask("mug.png")


def test_several_pictures_and_a_background(pictures: Path, tmp_path: Path) -> None:
    other = shutil.copy(pictures / "kitchen.png", tmp_path / "other.png")
    options = [f"my-a={pictures}/mug.png:toy", f"my-b={pictures}/robot.png"]
    options += ["my-a=-", f"my-b={pictures}/robot.png"]
    scene = scene_from_options([pictures / "kitchen.png", Path(other)], options, "my-lawn:grass")
    assert [list(p.masks) for p in scene.images] == [
        ["my-a", "my-b", "my-lawn"],
        ["my-b", "my-lawn"],
    ]
    assert scene.words == {"my-a": "toy", "my-b": "", "my-lawn": "grass"}


BAD_FILES = {
    "no JSON": "{",
    "a list": "[]",
    "unknown key": '{"pictures": [], "colour": 1}',
    "no pictures": '{"pictures": 3}',
    "picture as text": '{"pictures": ["kitchen.png"]}',
    "outside": '{"pictures": [{"image": "../kitchen.png", "masks": {}}]}',
    "absolute": '{"pictures": [{"image": "/etc/hostname", "masks": {}}]}',
    "background as number": '{"pictures": [], "background": 1}',
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_scene_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "scene.json").write_text(text)
    with pytest.raises(InputError):
        scene_from_folder(tmp_path)


def test_a_detail_is_learned_and_said_of_in_its_own_words(
    command: Command, pictures: Path, tmp_path: Path
) -> None:
    mask = ("--mask", f"my-mark={pictures / 'mug'}.png:mug")
    brief = ("--token-steps", 0, "--weight-steps", 1, "--preview-steps", 1, "--views", 1)
    out = tmp_path / "out"
    result = command(
        "train", "--method", "clic", "-i", pictures / "kitchen.png", *mask, *brief,
        "--object-word", "circle", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    concept = load_concept(out / "concept.safetensors")
    assert concept.method == "clic"
    assert concept.prompts == ("a photo of <my-mark>", "a photo of a circle and <my-mark>")
    header = (out / "losses.csv").read_text().splitlines()[0]
    assert all(term in header for term in ("context", "attention", "roi"))
    refused = command("train", "--method", "clic", "-i", pictures / "kitchen.png", *mask,
                      "--prior-weight", 1, "--out", out)  # fmt: skip
    assert refused.exit_code == 2
    assert "a setting of CLiC" in refused.output.replace("\n", " ")


def test_a_concept_for_the_bank_is_learned(
    command: Command, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = command(
        "train", "--method", "concept-weaver", "-i", pictures / "kitchen.png",
        "--mask", f"my-mark={pictures / 'mug'}.png:mug", "--token-steps", 0,
        "--weight-steps", 1, "--preview-steps", 1, "--views", 1, "--smallest", 0.5, "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    concept = load_concept(out / "concept.safetensors")
    assert concept.method == "concept_weaver"
    assert concept.prompts == ("a photo of a <my-mark> mug",)
    assert concept.recipe["smallest"] == 0.5
    assert all(".attn2.to_" in name for name in concept.weights)
