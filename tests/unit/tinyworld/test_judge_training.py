"""How the judge learns: families, labels, degradations, the loss over members."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from conceptloom.tinyworld.judge.words import FORMS, HEADS
from conceptloom.tinyworld.members import KINDS, is_kept_away, look
from conceptloom.tinyworld.recipe import judge_objects
from conceptloom.tinyworld.recipe.degrade import bend, roughen, tint
from conceptloom.tinyworld.recipe.judge import (
    CROP,
    ROOMY,
    ROOMY_MARGIN,
    Picker,
    degraded,
    member_loss,
)
from conceptloom.tinyworld.recipe.judge_check import equal_error
from conceptloom.tinyworld.recipe.judge_objects import draw_objects, load_objects
from conceptloom.tinyworld.recipe.judge_scenes import (
    FAMILY,
    IGNORE,
    families,
    joined,
    render_scenes,
    soften,
)


def test_member_loss_by_hand() -> None:
    # two members at right angles, two equal views each: a share of 1 / (1 + 2 exp(-1 / 0.1))
    embedding = torch.eye(4)[[0, 0, 1, 1]]
    loss = member_loss(embedding, torch.tensor([5, 5, 9, 9]))
    assert (
        loss.item() == torch.tensor(math.log(1 + 2 * math.exp(-10))).item()
        or abs(loss.item() - math.log(1 + 2 * math.exp(-10))) < 1e-6
    )
    # what has no member is told from, and pulls nothing together
    alone = member_loss(embedding, torch.tensor([5, 5, IGNORE, IGNORE]))
    assert abs(alone.item() - loss.item()) < 1e-6
    mixed = member_loss(embedding, torch.tensor([5, 9, 5, 9]))
    assert mixed.item() > 9


def test_families_are_alike_and_away_from_held_out_members() -> None:
    rng = np.random.default_rng(0)
    for family in families("teapot", 3, rng):
        assert len(family) == FAMILY
        assert {m.kind for m in family} == {"teapot"}
        assert not any(is_kept_away(m) for m in family)
        assert len({look(m) for m in family}) > 1


def test_samples_repeat_and_are_labelled() -> None:
    members = list(enumerate(families("mug", 2, np.random.default_rng(1))[0]))
    a, b = render_scenes(members, (1, 2)), render_scenes(members, (1, 2))
    assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in a.__dataclass_fields__)
    own = a.identity != IGNORE
    assert sorted(a.identity[own]) == [0, 1, 2, 3]
    kind = list(HEADS["kind"]).index("mug")
    assert (a.words[own, 0] == kind).all()
    assert ((a.forms[own] >= 0).sum(1) == sum(owner == "mug" for owner, _, _ in FORMS)).all()
    both = joined([a, b])
    assert both.scene.max() == 2 * len(a.images) - 1
    assert np.array_equal(both.images[both.scene[-1]], a.images[a.scene[-1]])


def test_softened_pictures_change_only_in_part() -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 128, 128, 3), np.uint8)
    before = images.copy()
    soften(images, None, (0,))
    changed = (images != before).any((1, 2, 3)).mean()
    assert 0.05 < changed < 0.4


def test_degradations_are_mild_and_repeat() -> None:
    x = torch.rand(6, 3, 56, 56, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    for change in (tint, roughen):
        y = change(x, np.random.default_rng(3))
        assert torch.equal(y, change(x, np.random.default_rng(3)))
        assert 0 < (y - x).abs().mean() < 0.15
    assert bend(x, 48, np.random.default_rng(3)).shape == (6, 3, 48, 48)


def test_degraded_crops_stay_gray_beside_the_object() -> None:
    crops = torch.full((4, 4, ROOMY, ROOMY), 0.5)
    crops[:, :3, 20:36, 20:36] = 0.9
    crops[:, 3] = 0
    crops[:, 3, 20:36, 20:36] = 1
    y = degraded(crops, np.random.default_rng(0))
    assert y.shape == (4, 4, CROP, CROP)
    assert torch.allclose(y[:, :3, :4], torch.tensor(0.5))
    assert y[:, 3].amax() == 1


def test_batches_hold_two_views_of_near_members() -> None:
    rng = np.random.default_rng(2)
    members = [
        m
        for kind in ("mug", "cat", "car", "bird", "ball")
        for f in families(kind, 4, rng)
        for m in f
    ]
    samples = render_scenes([(n, m) for n, m in enumerate(members) for _ in range(2)], (5,))
    picked = samples.identity[Picker(samples).pick(rng, 128)]
    numbers, counts = np.unique(picked[picked != IGNORE], return_counts=True)
    assert (counts >= 2).mean() > 0.9
    assert len(np.unique(numbers // FAMILY)) < len(numbers) / 2
    assert (picked == IGNORE).sum() == 16


def test_equal_error_lies_between() -> None:
    assert 0.5 < equal_error([0.8, 0.9, 0.7], [0.1, 0.2, 0.5]) <= 0.7
    # one of three own ones is below 0.8, and one of four others reaches it
    assert equal_error([0.4, 0.8, 0.9], [0.1, 0.5, 0.85, 0.3]) == 0.8


def test_objects_without_a_scene_repeat_and_are_labelled() -> None:
    a, b = (draw_objects(40, (7, 1), ROOMY, ROOMY_MARGIN) for _ in range(2))
    assert torch.equal(a.crops, b.crops)
    assert torch.equal(a.words, b.words)
    assert a.crops.shape == (40, 4, ROOMY, ROOMY)
    assert ((a.forms >= 0).sum(1) > 0).all()
    for crop, words in zip(a.crops, a.words, strict=True):
        assert crop[3].float().mean() > 0.1 * 255  # the object fills its crop
        assert list(HEADS["kind"])[int(words[0])] in KINDS
    emblems = a.words[:, list(HEADS).index("emblem")]
    assert (emblems > 0).sum() > 10  # marks are what they are there for
    assert len(set(emblems.tolist())) > 5


def test_missing_parts_are_drawn_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_objects, "OBJECTS", 3)
    first = load_objects(tmp_path, 0, ROOMY, ROOMY_MARGIN, 1)
    monkeypatch.setattr(judge_objects, "draw_objects", None)  # what is there is not drawn again
    again = load_objects(tmp_path, 0, ROOMY, ROOMY_MARGIN, 1)
    assert torch.equal(first.crops, again.crops)
    assert len(first.crops) == 3
