"""Scenes: the same for a seed, masks and captions that tell the truth."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.tinyworld.captions import PATTERN_NOUNS, caption_words
from conceptloom.tinyworld.members import KINDS, held_out, is_kept_away, member
from conceptloom.tinyworld.painters.kinds import EMBLEMS, PATTERNS, STYLES, UNNAMED_EMBLEMS
from conceptloom.tinyworld.painters.sheet import PALETTE
from conceptloom.tinyworld.scenery import scenery
from conceptloom.tinyworld.scenes import (
    RADII,
    SIZE,
    Placed,
    member_scene,
    place,
    random_scene,
    render,
)
from conceptloom.tinyworld.shapes import BACKGROUNDS

each_kind = pytest.mark.parametrize("kind", KINDS)


def portrait(one, size: int = SIZE, background: str = "white"):
    """A member alone in the middle."""
    place = Placed(what=one, x=0.5, y=0.5, radius=0.42)
    return render([place], background, np.random.default_rng(0), size)


def test_same_generator_gives_the_same_scene() -> None:
    a, b = (random_scene(np.random.default_rng(5)) for _ in range(2))
    assert a.caption == b.caption
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.masks, b.masks)
    assert a.image.shape == (SIZE, SIZE, 3)


def test_no_training_scene_shows_a_held_out_member() -> None:
    rng = np.random.default_rng(0)
    shown = [t.member for _ in range(150) for t in random_scene(rng, 32).things if t.member]
    assert len(shown) > 100
    assert {one.kind for one in shown} == set(KINDS)
    assert not any(is_kept_away(one) for one in shown)


@each_kind
@pytest.mark.parametrize("seed", range(6))
def test_members_stay_inside_their_square_and_fill_it(kind: str, seed: int) -> None:
    mask = portrait(member(kind, seed)).masks[0]
    rows, columns = np.nonzero(mask > 0.5)
    for at in (rows, columns):
        assert at.min() >= (0.5 - 0.42 * 1.06) * SIZE
        assert at.max() <= (0.5 + 0.42 * 1.06) * SIZE
    assert max(np.ptp(rows), np.ptp(columns)) > 0.64 * 0.84 * SIZE
    assert mask.mean() > 0.08


@each_kind
def test_rare_parts_can_be_drawn(kind: str) -> None:
    for option, word in KINDS[kind].rare.items():
        usual = next(m for m in (member(kind, s) for s in range(9)) if m.options[option] != word)
        changed = portrait(usual.changed(options={option: word})).image
        assert not np.array_equal(changed, portrait(usual).image)


@each_kind
def test_every_parameter_is_seen_in_some_member(kind: str) -> None:
    """A parameter that changes no picture would be none."""
    found = KINDS[kind]
    seen: set[str] = set()
    wanted = {*found.numbers, *found.options} | {f"{slot} colour" for slot in found.colours}
    for seed in range(12):
        one = member(kind, seed).changed(options={"emblem": "star", "pattern": "dotted"})
        base = portrait(one, 64).image
        changes = {k: {"numbers": {k: sum(r) / 2}} for k, r in found.numbers.items()}
        changes |= {
            k: {"options": {k: next(w for w in (*words, found.rare.get(k)) if w != one.options[k])}}
            for k, words in found.options.items()
        }
        for slot, words in found.colours.items():
            other = next(w for w in words if w != one.colours[slot])
            changes[f"{slot} colour"] = {"colours": {slot: other}}
        for name, change in changes.items():
            if not np.array_equal(portrait(one.changed(**change), 64).image, base):
                seen.add(name)
    assert seen == wanted


@each_kind
def test_marks_lie_on_the_surface_and_masks_are_exact(kind: str) -> None:
    one = member(kind, 2)
    bare = one.changed(options={"emblem": "", "pattern": "plain"})
    marked = one.changed(options={"emblem": "star", "style": "badge", "pattern": "plain"})
    a, b = portrait(bare), portrait(marked)
    assert np.array_equal(a.masks, b.masks)
    assert np.array_equal(a.surface(0), b.surface(0))
    emblem = b.emblem(0)
    assert emblem.sum() > 30
    assert (emblem <= b.surface(0) + 1e-6).all()
    differs = (a.image != b.image).any(-1)
    assert np.array_equal(differs, emblem > 0) or (differs <= (emblem > 0)).all()
    assert differs.sum() > 0.8 * (emblem > 0.3).sum()
    assert a.emblem(0).sum() == 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("emblem", [*EMBLEMS, *UNNAMED_EMBLEMS])
def test_every_emblem_has_a_mask_in_every_style(emblem: str, style: str) -> None:
    one = member("vase", 2).changed(options={"emblem": emblem, "style": style, "pattern": "plain"})
    scene = portrait(one)
    assert 0.005 < scene.emblem(0).mean() < 0.2
    assert ("badge" in scene.parts[0]) == (style == "badge")


@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_patterns_cover_a_good_part_of_their_ground(pattern: str) -> None:
    for seed in range(5):
        one = member("mug", seed).changed(options={"pattern": pattern, "emblem": ""})
        scene = portrait(one)
        share = scene.parts[0]["pattern"].sum() / scene.surface(0).sum()
        assert 0.15 < share < 0.7


def test_parts_of_a_thing_make_it_up() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        scene = random_scene(rng)
        for mask, parts in zip(scene.masks, scene.parts, strict=True):
            pieces = [m for name, m in parts.items() if name != "surface"]
            if pieces:
                assert np.allclose(np.sum(pieces, axis=0), mask, atol=1e-5)


def test_things_above_hide_things_below() -> None:
    below = Placed(what=member("mug", 1), x=0.5, y=0.5, radius=0.4)
    above = Placed(what=member("ball", 1), x=0.45, y=0.55, radius=0.15)
    alone = render([below], "white", np.random.default_rng(0))
    scene = render([below, above], "white", np.random.default_rng(0))
    assert scene.masks.sum(0).max() <= 1 + 1e-6
    assert np.allclose(scene.masks[0], alone.masks[0] * (1 - scene.masks[1]))
    hidden = np.sum([m for k, m in scene.parts[0].items() if k != "surface"], axis=0)
    assert np.allclose(hidden, scene.masks[0], atol=1e-5)


def test_outside_of_the_masks_is_the_background() -> None:
    one = Placed(what=member("cat", 4), x=0.4, y=0.6, radius=0.3)
    scene = render([one], "beach", np.random.default_rng(0))
    empty = render([], "beach", np.random.default_rng(0))
    outside = scene.masks[0] == 0
    assert np.array_equal(scene.image[outside], empty.image[outside])


@pytest.mark.parametrize("size", [64, 128, 256])
def test_masks_keep_their_share_at_every_size(size: int) -> None:
    two = [held_out("robot")[0], held_out("fish")[0]]
    scene = member_scene(two, 3, "sky", size)
    assert scene.image.shape == (size, size, 3)
    base = member_scene(two, 3, "sky").masks.mean((1, 2))
    assert scene.masks.mean((1, 2)) == pytest.approx(base, rel=0.06)


def test_a_seed_puts_other_members_in_the_same_place() -> None:
    a, b = (member_scene([one], 5, "grass") for one in held_out("mug")[:2])
    assert (a.things[0].x, a.things[0].radius) == (b.things[0].x, b.things[0].radius)


@pytest.mark.parametrize("count", RADII)
def test_placed_things_do_not_touch_and_stay_inside(count: int) -> None:
    for seed in range(20):
        spots = place(count, np.random.default_rng(seed))
        for i, (x, y, r) in enumerate(spots):
            assert min(x, y) - r >= 0
            assert max(x, y) + r <= 1
            assert all(np.hypot(x - a, y - b) > r + c for a, b, c in spots[:i])


def test_captions_use_the_known_words_only() -> None:
    known, rng = set(caption_words()), np.random.default_rng(1)
    said: set[str] = set()
    for _ in range(400):
        said |= set(random_scene(rng, 16).caption.replace(",", " ,").split())
    assert said <= known
    assert {*KINDS, *EMBLEMS, "toy", "object", "left", "striped"} <= said


def test_what_a_caption_says_is_true() -> None:
    rng, checked = np.random.default_rng(2), 0
    nouns = {noun: name for name, noun in PATTERN_NOUNS.items()}
    for _ in range(300):
        scene = random_scene(rng, 16)
        for word in scene.words:
            one = scene.things[word.thing].member if word.thing >= 0 else None
            if one is None:
                continue
            kind = KINDS[one.kind]
            if not word.parts:
                names = {one.colour, one.pattern, kind.name, kind.category}
            elif word.parts == ("pattern",):
                names = {one.colours["second"], *(n for n, p in nouns.items() if p == one.pattern)}
            elif "emblem" in word.parts:
                names = {one.colours["mark"], one.emblem}
            else:
                (part,) = word.parts
                names = {part, one.colours[kind.spoken[part]]}
            assert word.text in names, scene.caption
            checked += 1
    assert checked > 500


@each_kind
def test_parts_that_captions_name_are_drawn_in_their_colour(kind: str) -> None:
    for seed in range(4):
        one = member(kind, seed).changed(options={"emblem": "", "pattern": "plain"})
        scene = portrait(one)
        for part, slot in KINDS[kind].spoken.items():
            where = scene.parts[0][part] > 0.99
            assert where.sum() > 5, part
            # the rest is outline, or a pupil
            away = np.abs(scene.image[where] - np.float32(PALETTE[one.colours[slot]])).max(-1)
            assert (away < 60).mean() > 0.12, (part, one.colours[slot])


def test_backgrounds_are_all_known_and_differ() -> None:
    means = [scenery(kind, 64, np.random.default_rng(0)).mean((0, 1)) for kind in BACKGROUNDS]
    for i, one in enumerate(means):
        assert all(np.abs(one - other).sum() > 20 for other in means[:i])
    with pytest.raises(KeyError, match="unknown background 'moon'"):
        scenery("moon", 64, np.random.default_rng(0))
