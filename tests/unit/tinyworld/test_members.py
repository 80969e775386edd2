"""Members of the classes: the same for the same seed, told apart, and held out of training."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.tinyworld import members
from conceptloom.tinyworld.members import (
    CATEGORIES,
    KINDS,
    distance,
    far_distractor,
    held_out,
    is_kept_away,
    look,
    member,
    near_distractor,
    training_member,
)
from conceptloom.tinyworld.painters.kinds import UNNAMED_EMBLEMS

each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_a_seed_is_a_member(kind: str) -> None:
    assert member(kind, 7) == member(kind, 7)
    assert member(kind, 7) != member(kind, 8)
    assert member(kind, 7).seed == 7


@each_kind
def test_a_class_has_eight_parameters_of_its_own(kind: str) -> None:
    found = KINDS[kind]
    own = len(found.numbers) + len(found.options) + len(found.colours)
    assert own >= 8
    assert len(found.colours) >= 3


def test_every_category_has_several_classes() -> None:
    assert all(len(kinds) >= 2 for kinds in CATEGORIES.values())
    assert set(CATEGORIES) == {"container", "animal", "building", "plant", "toy"}
    assert {k.category for k in KINDS.values()} - set(CATEGORIES) == {"object"}


@each_kind
def test_marks_stand_out_from_what_they_lie_on(kind: str) -> None:
    for seed in range(60):
        one = member(kind, seed)
        ground = members.ground_colour(one)
        assert one.colours["second"] not in (one.colour, ground)
        assert one.colours["mark"] not in (ground, one.colours["second"])


@each_kind
def test_held_out_members_differ_and_some_are_rare(kind: str) -> None:
    found = held_out(kind)
    assert found == held_out(kind)
    assert len({one.colour for one in found}) == len(found) == members.HELD_OUT
    assert found[2].pattern != "plain"
    assert found[2].emblem
    rare = KINDS[kind].rare
    assert not rare or any(found[3].options[k] == word for k, word in rare.items())
    assert all(one.emblem or one.pattern != "plain" for one in found)
    assert not any(one.emblem in UNNAMED_EMBLEMS for one in found)


@each_kind
def test_held_out_members_are_kept_away_with_all_that_look_like_them(kind: str) -> None:
    for one in held_out(kind):
        assert is_kept_away(one)
        number = next(iter(KINDS[kind].numbers))
        low, high = KINDS[kind].numbers[number]
        other = one.numbers[number] + (high - low) / 2
        assert is_kept_away(one.changed(numbers={number: other}))  # same look, another shape
        option = next(iter(KINDS[kind].options))
        assert is_kept_away(one.changed(options={option: "another"}))


def test_training_draws_no_member_that_is_kept_away(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = held_out("mug")[0]
    turned_away: list[int] = []

    def dealt(kind: str, seed: int):  # every second member that is dealt is the held-out one
        turned_away.append(seed)
        return kept if len(turned_away) % 2 else member(kind, seed)

    monkeypatch.setattr(members, "member", dealt)
    rng = np.random.default_rng(0)
    drawn = [training_member("mug", rng) for _ in range(50)]
    assert len(turned_away) >= 100
    assert all(one != kept and not is_kept_away(one) for one in drawn)


def test_training_keeps_most_of_a_class() -> None:
    kept = [is_kept_away(member(kind, seed)) for kind in KINDS for seed in range(40)]
    assert np.mean(kept) < 0.1


def test_colours_that_are_taken_are_not_drawn() -> None:
    rng = np.random.default_rng(0)
    assert all(
        training_member("cat", rng, {"red", "blue"}).colour not in ("red", "blue")
        for _ in range(40)
    )


def test_distance_by_hand() -> None:
    one = member("mug", 3)
    assert distance(one, one) == 0
    assert distance(one, member("cat", 3)) == 1
    low, high = KINDS["mug"].numbers["height"]
    half = one.numbers["height"] + (high - low) / 2
    count = len(one.numbers) + len(one.options) + len(one.colours)
    assert distance(one, one.changed(numbers={"height": half})) == pytest.approx(0.5 / count)
    assert distance(one, one.changed(options={"rim": "other"})) == pytest.approx(1 / count)


@each_kind
def test_near_distractors_differ_in_little_and_far_ones_in_much(kind: str) -> None:
    rng = np.random.default_rng(0)
    for one in held_out(kind):
        near, far = near_distractor(one, rng), far_distractor(one, rng)
        assert near.kind == far.kind == kind
        assert look(near) != look(one)
        assert near.numbers == one.numbers
        changed = [k for k in one.colours if near.colours[k] != one.colours[k]]
        changed += [k for k in KINDS[kind].options if near.options[k] != one.options[k]]
        assert len(changed) <= 2
        assert far.colour != one.colour
        assert (far.pattern, far.emblem) != (one.pattern, one.emblem)
        assert distance(one, far) > 2 * distance(one, near)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(KeyError, match=r"a mug has no 'wings' among its options: .*handle"):
        member("mug", 0).changed(options={"wings": "two"})
