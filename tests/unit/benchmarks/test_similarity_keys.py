"""Where finished work lies: what another checkpoint made is not taken for one's own."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from similarity.clic import work_of
from similarity.pairs import CONCEPT, Pair, Side
from similarity.pairs import quick_budget as clic_budget
from similarity.protocol import RESIDUALS
from similarity.protocol import quick_budget as scene_budget
from similarity.scenes import work_of as scene_work_of
from similarity.weave import Weaver, key_of
from similarity.weave_jobs import Part, WeaveJob
from similarity.weave_jobs import quick_budget as weave_budget

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.scenes.scene import ConceptScene, make_scene

IMAGE, MASK = torch.full((64, 64, 3), 0.5), torch.ones(64, 64)
CELLS = Path("cells")


def scene(name: str, word: str) -> ConceptScene:
    return make_scene([IMAGE], {name: [MASK]}, {name: word})


def scenes(host: DiffusersHost) -> tuple[str, ...]:
    work = scene_work_of(
        host, "yard", scene("my-cat", "cat"), RESIDUALS, scene_budget(64, 0), 0, CELLS
    )
    return (str(work.folder),)


def details(host: DiffusersHost) -> tuple[str, ...]:
    side = Side(scene(CONCEPT, ""), "chair")
    work = work_of(host, "chairs", Pair(side, side), clic_budget(64, 0), 0, CELLS)
    return str(work.learned), str(work.folder)


def weaves(host: DiffusersHost) -> tuple[str, ...]:
    part = Part("my-cat", "cat", scene("my-cat", "cat"))
    job, masks, budget = WeaveJob(IMAGE, "a cat", (part,)), {"my-cat": MASK}, weave_budget(64, 0)
    (concept,) = Weaver(host, job, masks, budget, CELLS).files
    return str(concept), key_of(Namespace(dtype="fp32"), host, job, masks, budget)


@pytest.mark.parametrize("folders", [scenes, details, weaves])
def test_another_vae_has_other_folders(
    folders: Callable[[DiffusersHost], tuple[str, ...]],
) -> None:
    host = DiffusersHost.tinyworld()
    before = folders(host)
    assert folders(DiffusersHost.tinyworld()) == before
    with torch.no_grad():
        for weight in host.vae.parameters():
            weight.mul_(1.5)
    assert not {*folders(host)} & {*before}
