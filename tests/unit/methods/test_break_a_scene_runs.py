"""Whole runs of Break-A-Scene: the same file again, cancelled anywhere, on a full disk."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conceptloom.concepts import paths
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import (
    BreakASceneConfig,
    ClassImages,
    learn_scene,
)
from conceptloom.methods.break_a_scene import learn as learn_module
from conceptloom.training import checkpoints, runner
from conceptloom.training import estimate as estimate_module
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import LoopConfig
from conceptloom.training.previews import PreviewConfig, Previews

from ..tiny_models import assert_unchanged, snapshot, tiny_host
from .break_a_scene_cases import QUICK, SIDE, Cancelled, Reports, config, scene

pytestmark = pytest.mark.usefixtures("quick_disk")


def learned_file(
    host: DiffusersHost, path: Path, settings: BreakASceneConfig, **more: Any
) -> bytes:
    learned = learn_scene(host, scene(2), settings, **(QUICK | more))
    save_concept(learned.concept, path)
    return path.read_bytes()


def test_the_same_seed_gives_the_same_file(host: DiffusersHost, tmp_path: Path) -> None:
    before = snapshot(host)
    settings = config(2, 2, scope=Scope.CROSS_ATTENTION_KV, seed=3)
    one = learned_file(host, tmp_path / "a.safetensors", settings)
    assert_unchanged(before, host)
    assert learned_file(tiny_host(), tmp_path / "b.safetensors", settings) == one
    other = learned_file(host, tmp_path / "c.safetensors", replace(settings, seed=4))
    assert other != one


def test_a_run_cancelled_at_every_report_gives_the_same_file(tmp_path: Path) -> None:
    """Before anything, among the class images, between phases, at previews, after the end."""
    settings = config(2, 2, scope=Scope.CROSS_ATTENTION_KV)
    loop = LoopConfig(preview_every=2, save_every=3)
    straight = learned_file(tiny_host(), tmp_path / "a.safetensors", settings, loop=loop)
    host, told = tiny_host(), []
    before = snapshot(host)
    for count in range(40):
        reports = Reports(count)
        more = {"loop": loop, "folder": tmp_path / "states", "progress": reports}
        try:
            found = learned_file(host, tmp_path / "b.safetensors", settings, **more)
        except Cancelled:
            told.append(reports.heard[-1])
            assert_unchanged(before, host)
            continue
        assert found == straight
        break
    else:
        pytest.fail("the run never came to its end")
    met = {"encoding the pictures", "drawing class images", "handles"}
    assert {message for _, message in told} >= met
    assert told[0] == (1, "encoding the pictures")


def test_a_full_disk_does_not_cost_the_concept(
    host: DiffusersHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from conceptloom.errors import StorageError

    def full(*_: object) -> None:
        raise StorageError("the disk is full; free some space")

    settings = config(1, 1, scope=Scope.HANDLES)
    straight = learn_scene(host, scene(), settings, **QUICK).concept
    monkeypatch.setattr(runner, "write_csv", full)
    monkeypatch.setattr(learn_module.StateFolder, "save", full)
    concept = learn_scene(host, scene(), settings, **QUICK, folder=tmp_path).concept
    for name, vectors in straight.handles.items():
        assert torch.equal(concept.handles[name]["clip_l"], vectors["clip_l"])
    assert caplog.text.count("the disk is full") == 2


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_concept_is_written_before_anything_is_drawn(
    host: DiffusersHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path, settings = tmp_path / "concept.safetensors", config(1, 1)
    monkeypatch.setattr(Previews, "samples", crash)
    with pytest.raises(KeyboardInterrupt):
        learn_scene(host, scene(), settings, **QUICK, save=lambda one: save_concept(one, path))
    drawn_never = load_concept(path)
    monkeypatch.undo()
    whole = learn_scene(host, scene(), settings, **QUICK, save=lambda one: save_concept(one, path))
    assert whole.path == path
    for name, vectors in whole.concept.handles.items():
        assert torch.equal(drawn_never.handles[name]["clip_l"], vectors["clip_l"])
    assert drawn_never.weights.keys() == whole.concept.weights.keys()
    assert drawn_never.thumbnail is None
    assert load_concept(path).thumbnail is not None


def test_a_concept_that_cannot_be_written_is_handed_on(
    host: DiffusersHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(paths.os, "fsync", full_disk)
    learned = learn_scene(
        host,
        scene(),
        config(1, 1),
        **QUICK,
        save=lambda one: save_concept(one, tmp_path / "concept.safetensors"),
    )
    assert learned.path is None
    assert "disk is full" in learned.trouble
    assert "in memory only" in caplog.text
    assert learned.concept.handles.keys() == {"mug", "cat"}
    assert list(tmp_path.iterdir()) == []


def test_states_give_way_to_the_concept_on_a_full_disk(
    host: DiffusersHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the disk held two states and no file more."""
    states, path = tmp_path / "states", tmp_path / "concept.safetensors"
    room = [2]

    def take(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        if not os.path.isdir(name) and len(list(tmp_path.rglob("*.safetensors"))) >= room[0]:
            full_disk()

    monkeypatch.setattr(paths.os, "fsync", take)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    settings = config(3, 2, scope=Scope.HANDLES, class_images=ClassImages(draw=0))
    more = {"loop": LoopConfig(save_every=1), "folder": states}
    learned = learn_scene(
        host, scene(), settings, **(QUICK | more), save=lambda one: save_concept(one, path)
    )
    assert learned.path == path
    assert load_concept(path).handles.keys() == {"mug", "cat"}
    assert [file.name for file in states.rglob("state-*")] == ["state-00000005.safetensors"]
    room[0] = 1  # not even one state beside the concept
    path.unlink()
    learned = learn_scene(
        host, scene(), settings, **(QUICK | more), save=lambda one: save_concept(one, path)
    )
    assert learned.path == path
    assert list(states.rglob("state-*")) == []


@pytest.mark.parametrize(("every", "drawn"), [(None, 1), (0, 0), (2, 2), (3, 1)])
def test_pictures_are_drawn_as_often_as_asked_for_and_every_pass_is_reported(
    host: DiffusersHost, monkeypatch: pytest.MonkeyPatch, every: int | None, drawn: int
) -> None:
    """Of three steps; a preview at the last one is not drawn twice."""
    previews, real = [], Previews.samples

    def samples(shown: Previews) -> torch.Tensor:
        previews.append(1)
        return real(shown)

    monkeypatch.setattr(Previews, "samples", samples)
    reports, settings = Reports(10**6), config(1, 2, class_images=ClassImages(draw=0))
    more: dict[str, Any] = {"previews": PreviewConfig(steps=4, cfg=1.0)}
    learned = learn_scene(
        host, scene(), settings, **more, loop=LoopConfig(preview_every=every), progress=reports
    )
    assert len(previews) == drawn
    assert (learned.samples is None) == (learned.concept.thumbnail is None) == (every == 0)
    # three prompts, four passes each, and decoding
    assert len([m for _, m in reports.heard if m == "drawing previews"]) == drawn * 3 * 5
    assert reports.heard[-1][1] == "reading the attention"


@pytest.mark.parametrize("patience", [1, 7, 14])
def test_the_pictures_at_the_end_stop_within_a_pass_and_the_concept_is_there(
    host: DiffusersHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    passes, real, path = [0], DiffusersHost.predict, tmp_path / "concept.safetensors"

    def predict(*args: Any, **rest: Any) -> torch.Tensor:
        passes[0] += 1
        return real(*args, **rest)

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        if message == "drawing previews" and step >= patience:
            stopped.append(passes[0])
            raise Cancelled

    stopped: list[int] = []
    monkeypatch.setattr(DiffusersHost, "predict", predict)
    more: dict[str, Any] = {"previews": PreviewConfig(steps=4, cfg=1.0)}
    more |= {"folder": tmp_path, "save": lambda one: save_concept(one, path), "progress": progress}
    with pytest.raises(Cancelled):
        learn_scene(host, scene(), config(1, 1, class_images=ClassImages(draw=0)), **more)
    assert stopped == [passes[0]]
    assert load_concept(path).handles.keys() == {"mug", "cat"}


@pytest.mark.parametrize(("keep", "left"), [(True, ["state-00000005.safetensors"]), (False, [])])
def test_a_finished_run_keeps_one_state_or_none(
    host: DiffusersHost, tmp_path: Path, keep: bool, left: list[str]
) -> None:
    settings = config(3, 2, scope=Scope.HANDLES, class_images=ClassImages(draw=0))
    path, states = tmp_path / "concept.safetensors", tmp_path / "states"
    loop = LoopConfig(save_every=1, keep_state=keep)
    more: dict[str, Any] = {
        **QUICK,
        "loop": loop,
        "folder": states,
        "save": lambda one: save_concept(one, path),
    }
    learned = learn_scene(host, scene(), settings, **more)
    assert [file.name for file in states.rglob("state-*")] == left
    assert learned.states.startswith("1 saved state, " if keep else "no saved state left")
    assert "a saved state takes" in learned.estimate
    # with a concept that is in memory only, the state stays whatever was asked for
    more |= {"folder": tmp_path / "other", "save": None}
    learn_scene(host, scene(), settings, **more)
    assert len(list((tmp_path / "other").rglob("state-*"))) == 1


def test_the_estimate_counts_every_picture(host: DiffusersHost) -> None:
    counted, real = [], estimate_module.estimate_of

    def estimate_of(*args: Any, **rest: Any) -> Any:
        counted.append(rest["picture_passes"])
        return real(*args, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate_module, "estimate_of", estimate_of)
        more = {"previews": PreviewConfig(steps=4, cfg=3.0)}
        settings = config(1, 2, class_images=ClassImages(draw=2, steps=5))
        loop = LoopConfig(preview_every=2)
        learned = learn_scene(host, scene(), settings, **more, loop=loop)
    assert "for pictures" in learned.estimate
    # class images: 2 of 5 steps; previews at step 2 and at the end: 3 prompts of 4 steps and a
    # decoding; guidance doubles the rows
    assert counted == [2 * 5 * 2 + 2 * 3 * (4 * 2 + 1)]


def test_what_a_run_leaves_behind(host: DiffusersHost) -> None:
    learned = learn_scene(
        host, scene(), config(1, 2, scope=Scope.HANDLES), **QUICK, loop=LoopConfig(preview_every=2)
    )
    assert [row["step"] for row in learned.history] == [1, 2, 3]
    terms = {"step", "phase", "total", "diffusion", "attention"}
    assert set(learned.history[0]) == terms  # nothing of a class image reaches the handles
    assert set(learned.history[1]) == {*terms, "prior"}
    assert learned.samples is not None
    assert learned.samples.shape == (3, SIDE, SIDE, 3)  # each alone, and both
    assert learned.timeline is not None
    assert set(learned.scores) == {"mug", "cat"}
    concept = learned.concept
    assert set(concept.handles) == {"mug", "cat"}
    assert concept.words == {"mug": "cup", "cat": ""}
    assert concept.base == host.fingerprint
    assert concept.prompts == (
        "a photo of <mug>",
        "a photo of <cat>",
        "a photo of <mug> and <cat>",
    )
    assert concept.history["steps"] == 3


def test_the_overlay_shows_the_level_that_the_loss_reads(
    host: DiffusersHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptloom.training import previews

    factors = []
    real = previews.read_attention

    def read(*args: Any, downsample: int, **more: Any) -> Any:
        factors.append(downsample)
        return real(*args, downsample=downsample, **more)

    monkeypatch.setattr(previews, "read_attention", read)
    learn_scene(host, scene(), config(1, 0, attention_level=2), **QUICK)
    assert factors == [2]
