"""CLiC's similarity: pairs from files, what their pictures give, and a whole run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.report import page as page_of
from harness.results import Result, Row
from harness.subject import subject_of
from numpy.typing import NDArray
from PIL import Image
from quality.tasks import DETAILS
from quality.world import taught_of
from similarity import clic
from similarity.clic import BEFORE, CLIP_T, DETAIL, OUTSIDE, Measures, measured
from similarity.encoders import Clip, Dino
from similarity.pairs import (
    CONCEPT,
    REBUILT,
    UNTOUCHED,
    Pair,
    Side,
    edit_config,
    full_budget,
    pairs_of,
    plain_of,
    prompt_of,
    quick_budget,
    rows_of,
)
from torch import Tensor

from conceptloom.errors import ImageError, InputError, MaskError, ModelError
from conceptloom.scenes.scene import make_scene
from conceptloom.tinyworld.ornaments import ornament_scene

from .tiny_encoders import save_encoders

TAUGHT = taught_of(DETAILS[0])
DOCUMENT: dict[str, Any] = {
    "source": {"image": "source.png", "mask": "source-mask.png", "object": "green mug"},
    "target": {"image": "target.png", "mask": "target-mask.png", "object": "orange house"},
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with two pairs of TinyWorld that share their source."""
    for name, seed in (("face", 105), ("face-again", 106)):
        inside = tmp_path / "pairs" / name
        inside.mkdir(parents=True)
        bare = ornament_scene("orange house", "", seed, "sky")
        for side, scene in (("source", taught_of(DETAILS[0])), ("target", bare)):
            save(inside / f"{side}.png", scene.image)
            save(inside / f"{side}-mask.png", (scene.masks[1] * 255).astype("uint8"))
        (inside / "pair.json").write_text(json.dumps(DOCUMENT))
    again = DOCUMENT | {"source": DOCUMENT["source"] | {"image": "../face/source.png"}}
    (tmp_path / "pairs" / "face-again" / "pair.json").write_text(json.dumps(again))
    return tmp_path / "pairs"


def save(path: Path, pixels: NDArray[Any]) -> None:
    Image.fromarray(pixels).save(path)


class MeanChange:
    """A distance that anybody can check."""

    def __init__(self, *_: str) -> None: ...

    def between(self, images: Tensor, other: Tensor) -> Tensor:
        return (images - other).abs().mean(dim=(1, 2, 3))


def test_a_pair_is_read_as_it_was_written(pairs: Path) -> None:
    found = pairs_of(pairs)
    assert list(found) == ["face", "face-again"]
    pair = found["face"]
    assert (pair.source.word, plain_of(pair.target)) == ("green mug", "an orange house")
    assert torch.equal(pair.source.image * 255, torch.from_numpy(TAUGHT.image).float())
    assert torch.equal(found["face-again"].source.image, pair.source.image)
    assert not torch.equal(found["face-again"].target.image, pair.target.image)
    smaller = pair.at(32, 8)
    assert [side.mask.shape for side in (smaller.source, smaller.target)] == [(32, 32)] * 2


@pytest.mark.parametrize(
    ("side", "change", "error", "told"),
    [
        ("target", {"object": " "}, InputError, "needs a word"),
        ("target", {"mask": "mistyped.png"}, MaskError, "mistyped"),
        ("source", {"image": "mistyped.png"}, ImageError, "mistyped"),
        ("source", {"mask": "empty.png"}, MaskError, "empty"),
        ("source", {"image": None}, InputError, "shows a pair"),
    ],
)
def test_a_pair_that_is_not_whole_is_refused_in_words(
    side: str, change: dict[str, Any], error: type[Exception], told: str, pairs: Path
) -> None:
    save(pairs / "face" / "empty.png", (TAUGHT.masks[0] * 0).astype("uint8"))
    document = DOCUMENT | {side: DOCUMENT[side] | change}
    (pairs / "face" / "pair.json").write_text(json.dumps(document))
    with pytest.raises(error, match=told):
        pairs_of(pairs)


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no folder"):
        pairs_of(tmp_path)
    (tmp_path / "one").mkdir()
    for text, told in (("{", "is not JSON"), ("[]", "shows a pair")):
        (tmp_path / "one" / "pair.json").write_text(text)
        with pytest.raises(InputError, match=told):
            pairs_of(tmp_path)


def test_the_official_run_is_drawn(pairs: Path) -> None:
    budget, target = full_budget(512, 0), pairs_of(pairs)["face"].target
    config = edit_config(budget, 15)
    # transfer.py begins anew from the noised picture while i < 15: 14 steps leave no trace.
    assert (config.blend.start, config.steps, config.blend.eta, config.cfg) == (14, 50, 1, 7.5)
    assert (config.guidance.eta, config.guidance.steps, config.target_is_mask) == (0.01, 30, False)
    assert edit_config(budget, 15, -0.05).guidance.eta == -0.05
    assert prompt_of(budget, target) == f"an orange house with <{CONCEPT}> style"
    assert (budget.config.weight_phase.steps, budget.config.resolution_px) == (500, 512)
    assert budget.config.context_weight == 0.5


def test_the_detail_in_its_place_gets_the_best_marks(encoders: Path) -> None:
    measures = Measures(
        Clip(str(encoders / "clip"), "cpu"), Dino(str(encoders / "dino"), "cpu"), MeanChange()
    )
    taught, before = (
        torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    pair = Pair(side(taught, box(4, 8, 32)), side(before, box(24, 16, 32)))
    drawn, elsewhere = before.clone(), before.clone()
    drawn[24:56, 16:48] = taught[4:36, 8:40]
    elsewhere[0, 0] = 1 - elsewhere[0, 0]
    row = measured(measures, pair, torch.stack([drawn, before, elsewhere]))
    assert row[DETAIL.key][0] == pytest.approx(1, abs=1e-5)
    assert max(row[DETAIL.key][1:]) < 0.999
    assert row[BEFORE.key][1:] == pytest.approx([1, 1], abs=1e-5)
    assert row[BEFORE.key][0] < 0.999
    change = float((1 - 2 * before[0, 0]).abs().sum()) / before.numel()
    assert row[OUTSIDE.key] == pytest.approx([0, 0, change])
    assert len(row[CLIP_T.key]) == 3
    assert measured(Measures(measures.clip, measures.dino), pair, before[None])[OUTSIDE.key] == []


def box(top: int, left: int, length: int) -> Tensor:
    mask = torch.zeros(64, 64)
    mask[top : top + length, left : left + length] = 1
    return mask


def side(image: Tensor, mask: Tensor) -> Side:
    return Side(make_scene([image], {CONCEPT: [mask]}, {}), "chair")


def test_what_is_in_the_way_is_reported_before_anything_is_learned(
    encoders: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **more: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(clic, "open_model", never)
    monkeypatch.setitem(sys.modules, "lpips", None)
    command = ["--pairs", str(pairs), "--clip", str(encoders / "clip")]
    command += ["--dino", str(encoders / "dino"), "--lpips", "alexnet.pth"]
    with pytest.raises(ModelError, match="pip install lpips"):
        called(command)


def called(arguments: list[str]) -> Result:
    subject = subject_of("similarity", "clic")
    return subject.run(subject.parse(arguments))


@pytest.mark.slow
def test_a_whole_run_has_its_tables_and_is_not_made_again(
    encoders: Path, pairs: Path, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = tmp_path / "cells"
    command = ["--checkpoint", str(saved_model), "--quick"]
    command += ["--pairs", str(pairs), "--cells", str(cells)]
    command += ["--clip", str(encoders / "clip"), "--dino", str(encoders / "dino")]
    command += ["--lpips", "here"]
    monkeypatch.setattr(clic, "Lpips", MeanChange)
    result = called(command)
    assert "these figures mean nothing" in page_of(result)
    rows: dict[str, Row] = {row["row"]: row for row in result.table("similarity").rows}
    assert list(rows) == list(rows_of(quick_budget(64, 0)))
    assert [rows[n][OUTSIDE.key]["mean"] for n in rows if "pasted" in n] == [0.0] * 2
    assert rows[UNTOUCHED][OUTSIDE.key]["mean"] == 0.0
    assert rows[UNTOUCHED][BEFORE.key]["mean"] == pytest.approx(1.0)
    assert rows[REBUILT][OUTSIDE.key]["mean"] > 0
    gains = [s.table for s in result.sections if s.heading.startswith("Does the concept bring")]
    assert [len(table.rows) for table in gains] == [2, 2]
    assert [row["eta"] for row in result.table("eta").rows] == [-0.01, 0.01]
    assert [row["t_start"] for row in result.table("t_start").rows] == [1, 3]
    assert len(list(cells.rglob("*.concept.safetensors"))) == 1  # two pairs, one source
    (learned,) = result.table("costs").rows
    assert (learned["learned"], learned["times"], learned["steps"]) == ("CLiC", 1, "2")

    def never(*_: object, **more: object) -> None:
        raise AssertionError("made again")

    for name in ("learn_detail", "edit_latents"):
        monkeypatch.setattr(clic, name, never)
    again = called(command)
    assert [s.table for s in again.sections] == [s.table for s in result.sections]
