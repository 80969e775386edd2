"""Whole runs of CLiC: the same file again, cancelled on the way, and what is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.concepts.concept_file import save_concept
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import OFFICIAL, OFFICIAL_LOOP, PAPER_LOOP, CLiCConfig, learn_detail
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import LoopConfig
from conceptloom.training.phases import WeightPhase

from ..tiny_models import assert_unchanged, snapshot, tiny_host
from .clic_cases import QUICK, SIDE, config, scene

pytestmark = pytest.mark.usefixtures("quick_disk")


def learned_file(host: DiffusersHost, path: Path, settings: CLiCConfig, **more: Any) -> bytes:
    learned = learn_detail(host, scene(2), settings, **(QUICK | more))
    save_concept(learned.concept, path)
    return path.read_bytes()


def test_the_same_seed_gives_the_same_file(host: DiffusersHost, tmp_path: Path) -> None:
    before, settings = snapshot(host), config(1, 2, seed=3)
    one = learned_file(host, tmp_path / "a.safetensors", settings)
    assert_unchanged(before, host)
    assert learned_file(tiny_host(), tmp_path / "b.safetensors", settings) == one
    other = learned_file(host, tmp_path / "c.safetensors", replace(settings, seed=4))
    assert other != one


class Cancelled(Exception):
    pass


def test_a_cancelled_run_goes_on_and_gives_the_same_file(tmp_path: Path) -> None:
    settings = config(1, 3)
    straight = learned_file(tiny_host(), tmp_path / "a.safetensors", settings)
    host, heard = tiny_host(), []
    before = snapshot(host)

    def progress(step: int, total: int, message: str, *_: object) -> None:
        if message.startswith(("encoding", "drawing", "reading")):
            return  # pictures before and after the loop
        if "loss" in message or not step:
            heard.append(step)
        if heard == [0, 1, 2] and "loss" in message:  # the plan, and two steps
            raise Cancelled

    more = {"folder": tmp_path / "states", "progress": progress}
    with pytest.raises(Cancelled):
        learned_file(host, tmp_path / "b.safetensors", settings, **more)
    assert_unchanged(before, host)
    assert learned_file(host, tmp_path / "b.safetensors", settings, **more) == straight
    assert heard == [0, 1, 2, 0, 3, 4]


def test_what_a_run_leaves_behind(host: DiffusersHost) -> None:
    learned = learn_detail(host, scene(), config(1, 2), **QUICK, loop=LoopConfig(preview_every=2))
    assert [row["step"] for row in learned.history] == [1, 2, 3]
    assert set(learned.history[0]) == {"step", "phase", "total", "context", "attention", "roi"}
    assert learned.samples is not None
    assert learned.samples.shape == (2, SIDE, SIDE, 3)
    assert learned.timeline is not None
    assert set(learned.scores) == {"mark"}
    concept = learned.concept
    assert (concept.method, set(concept.handles)) == ("clic", {"mark"})
    assert concept.prompts == ("A photo of <mark>", "a chair with <mark> style")
    assert len(concept.weights) == sum(".attn2.to_" in name for name in host.weight_names())


def test_the_paper_optimises_without_decay_and_the_code_with_it() -> None:
    assert PAPER_LOOP.weight_decay == 0
    assert replace(PAPER_LOOP, weight_decay=0.1) == OFFICIAL_LOOP
    assert CLiCConfig().weight_phase == WeightPhase(
        steps=500, learning_rate=1e-5, scope=Scope.CROSS_ATTENTION
    )
    ratio = [getattr(OFFICIAL, f"{n}_weight") * 2 for n in ("context", "attention", "roi")]
    assert ratio == [CLiCConfig().context_weight, 0.5, 0.5]


def test_without_a_loop_the_papers_is_taken(host: DiffusersHost) -> None:
    def handle(loop: LoopConfig | None) -> Tensor:
        learned = learn_detail(host, scene(), config(1, 0), **QUICK, loop=loop)
        return learned.concept.handles["mark"]["clip_l"]

    assert torch.equal(handle(None), handle(PAPER_LOOP))
    assert not torch.equal(handle(None), handle(replace(PAPER_LOOP, weight_decay=0.1)))
