"""Scenes: what is taken, what is refused, and what the message says."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.errors import HandleError, ImageError, MaskError
from conceptloom.scenes.scene import ConceptScene, make_scene, resized_scene, with_background

IMAGE = torch.linspace(0, 1, 32 * 48 * 3).view(32, 48, 3)


def mask(left: int, right: int, size: tuple[int, int] = (32, 48)) -> Tensor:
    made = torch.zeros(size)
    made[8:24, left:right] = 1
    return made


def scene(**more: Any) -> ConceptScene:
    given: dict[str, Any] = {
        "images": [IMAGE],
        "masks": {"mug": [mask(4, 16)], "cat": [mask(24, 40)]},
        "words": {"mug": "cup"},
    }
    return make_scene(**(given | more))


def test_a_good_scene_keeps_what_came() -> None:
    made = scene()
    assert made.names == ["mug", "cat"]
    assert made.words == {"mug": "cup", "cat": ""}
    assert torch.equal(made.images[0].image, IMAGE)
    assert torch.equal(made.images[0].masks["cat"], mask(24, 40))


def test_brackets_and_spaces_around_words_are_dropped() -> None:
    made = scene(masks={"<mug>": [mask(4, 16)]}, words={"<mug>": "  cup "})
    assert made.words == {"mug": "cup"}


def test_alpha_is_dropped_and_values_stay_in_range() -> None:
    rgba = torch.cat([IMAGE * 1.01, torch.zeros(32, 48, 1)], dim=-1)
    made = scene(images=[rgba]).images[0].image
    assert made.shape == (32, 48, 3)
    assert made.max() == 1


BAD_PICTURES = [
    ([], "no picture: connect an image, or name one with --image"),
    ([torch.zeros(1, 1, 3)], r"Picture 1 is 1x1 px; a side needs 16 px or more"),
    ([torch.zeros(15, 48, 3)], r"Picture 1 is 48x15 px"),
    ([torch.zeros(32, 48, 1)], r"Picture 1 has the shape \[32, 48, 1\].*RGB"),
    ([torch.zeros(32, 48, 5)], r"\[32, 48, 5\]"),
    ([torch.zeros(2, 32, 48, 3)], r"Picture 1 has the shape \[2, 32, 48, 3\]"),
    ([torch.zeros(32, 48, 3, dtype=torch.uint8)], r"torch.uint8.*divide by 255"),
    ([torch.full((32, 48, 3), math.nan)], r"Picture 1 contains NaN or infinite"),
]


@pytest.mark.parametrize(("images", "told"), BAD_PICTURES)
def test_bad_pictures_are_reported(images: list[Tensor], told: str) -> None:
    with pytest.raises(ImageError, match=told):
        scene(images=images)


NAN = torch.full((32, 48), math.nan)
BAD_MASKS: list[tuple[dict[str, list[Tensor | None]], str]] = [
    ({}, "no mask: connect one for each concept, or name them with --mask NAME=FILE:WORD"),
    ({"mug": [torch.zeros(32, 48)]}, "Every mask of picture 1 is empty: nothing is painted"),
    ({"mug": [None]}, "Every mask of picture 1 is empty"),
    ({"mug": [mask(4, 9)], "cat": [torch.zeros(32, 48)]}, "<cat> is empty in every picture"),
    ({"mug": [mask(4, 9), mask(4, 9)]}, "<mug> has 2 masks for 1 pictures; connect one for each"),
    ({"mug": []}, "<mug> has 0 masks for 1 pictures"),
    (
        {"mug": [torch.ones(2, 32, 48)]},
        r"<mug> has the shape \[2, 32, 48\]; it must be height x width",
    ),
    ({"mug": [mask(4, 9, (32, 32))]}, r"<mug> is 32x32 px but its picture is 48x32.*crop or pad"),
    ({"mug": [mask(4, 16)], "cat": [mask(4, 16)]}, r"<mug> and <cat> cover the same.*\(100%"),
    ({"mug": [mask(4, 40)], "cat": [mask(8, 16)]}, "Paint them apart, or learn them as one"),
    ({"mug": [NAN]}, "<mug> contains NaN or infinite values"),
]


@pytest.mark.parametrize(("masks", "told"), BAD_MASKS)
def test_bad_masks_are_reported(masks: dict[str, list[Tensor | None]], told: str) -> None:
    with pytest.raises(MaskError, match=told):
        scene(masks=masks, words={})


BAD_NAMES = [
    ({"my mug": [mask(4, 9)]}, {}, r"'my mug' cannot be a handle.*my-mug"),
    ({"": [mask(4, 9)]}, {}, "A handle is empty"),
    ({"mug": [mask(4, 9)], "<mug>": [mask(20, 30)]}, {}, "Two concepts have the same name"),
    (
        {"mug": [mask(4, 9)]},
        {"cat": "cat"},
        "<cat> has a word but no mask; give it a mask, or remove the word",
    ),
]


@pytest.mark.parametrize(("masks", "words", "told"), BAD_NAMES)
def test_bad_names_are_reported(masks: Any, words: dict[str, str], told: str) -> None:
    with pytest.raises(HandleError, match=told):
        scene(masks=masks, words=words)


def test_masks_of_the_same_aspect_are_resized() -> None:
    made = scene(masks={"mug": [mask(8, 32, (64, 96))]}, words={})
    shown = made.images[0].masks["mug"]
    assert shown.shape == (32, 48)
    assert float(shown.mean()) == pytest.approx(float(mask(8, 32, (64, 96)).mean()), rel=0.02)
    # 1 % off in aspect is rounding of somebody's resize
    assert scene(masks={"mug": [mask(8, 32, (64, 97))]}, words={}).names == ["mug"]


def test_a_mask_batch_of_one_is_a_mask() -> None:
    made = scene(masks={"mug": [mask(4, 16)[None]]})
    assert torch.equal(made.images[0].masks["mug"], mask(4, 16))


def test_overlap_is_warned_of_before_it_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="conceptloom"):
        scene(masks={"mug": [mask(4, 16)], "cat": [mask(15, 30)]})
        assert not caplog.text
        scene(masks={"mug": [mask(4, 16)], "cat": [mask(10, 22)]})
    assert "<mug> and <cat> overlap by 50 %" in caplog.text


def test_several_pictures_may_show_different_concepts() -> None:
    made = scene(
        images=[IMAGE, IMAGE.flip(1)],
        masks={"mug": [mask(4, 16), None], "cat": [torch.zeros(32, 48), mask(20, 30)]},
    )
    assert [list(picture.masks) for picture in made.images] == [["mug"], ["cat"]]
    with pytest.raises(MaskError, match="Every mask of picture 2 is empty"):
        scene(images=[IMAGE, IMAGE], masks={"mug": [mask(4, 16), None]})
    with pytest.raises(ImageError, match="Picture 2 is 4x4"):
        scene(images=[IMAGE, torch.zeros(4, 4, 3)], masks={"mug": [mask(4, 16)] * 2})


@pytest.mark.parametrize("name", ["room", "<room>"])
def test_the_background_is_all_that_no_mask_covers(name: str) -> None:
    made = with_background(scene(), name, "wall")
    assert made.words == {"mug": "cup", "cat": "", "room": "wall"}
    masks = made.images[0].masks
    assert torch.equal(masks["room"], 1 - torch.maximum(masks["mug"], masks["cat"]))
    assert torch.equal(torch.stack(list(masks.values())).amax(0), torch.ones(32, 48))


def test_soft_masks_leave_a_soft_background() -> None:
    made = with_background(scene(masks={"mug": [mask(4, 16) * 0.75]}), "room")
    assert made.images[0].masks["room"].unique().tolist() == [0.25, 1.0]


def test_a_background_that_cannot_be_is_reported() -> None:
    with pytest.raises(HandleError, match="cannot be <mug>: a concept already has that name"):
        with_background(scene(), "<mug>")
    with pytest.raises(MaskError, match="cover every pixel"):
        with_background(scene(masks={"mug": [torch.ones(32, 48)]}), "room")


def test_a_background_stands_only_where_there_is_one() -> None:
    two = scene(images=[IMAGE, IMAGE], masks={"mug": [torch.ones(32, 48), mask(4, 16)]})
    made = with_background(two, "room")
    assert [list(picture.masks) for picture in made.images] == [["mug"], ["mug", "room"]]


@pytest.mark.parametrize(
    ("resolution", "multiple", "size"),
    [
        (0, 8, (32, 48)),
        (0, 64, (64, 128)),
        (512, 8, (416, 624)),  # 418.0 x 627.1 by area
        (64, 8, (48, 72)),  # 52.3 x 78.4
        (32, 8, (32, 48)),  # 26.1 x 39.2
        (8, 8, (8, 16)),  # 6.5 x 9.8
    ],
)
def test_the_size_to_learn_at(resolution: int, multiple: int, size: tuple[int, int]) -> None:
    made = resized_scene(scene(), resolution, multiple).images[0]
    assert made.image.shape == (*size, 3)
    assert {tuple(m.shape) for m in made.masks.values()} == {size}
    assert 0 <= float(made.image.min()) <= float(made.image.max()) <= 1


@pytest.mark.parametrize("resolution", [0, 8, 16, 40, 512])
@pytest.mark.parametrize("size", [(16, 16), (100, 40), (75, 100), (31, 32), (90, 17)])
def test_both_sides_are_within_a_latent_of_the_aspect(size: tuple[int, int], resolution: int):
    half = torch.zeros(size)
    half[:8] = 1
    made = resized_scene(
        scene(images=[torch.rand(*size, 3)], masks={"mug": [half]}), resolution, 8
    ).images[0]
    height, width = made.image.shape[:2]
    (short, long), (low, high) = sorted((height, width)), sorted(size)
    assert abs(long - short * high / low) < 8
    wanted = low * (resolution / (low * high) ** 0.5 if resolution else 1)
    assert short == 8 or abs(short - wanted) < 8
    assert height == width or (height > width) == (size[0] > size[1])


def test_a_size_too_small_for_the_aspect_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="conceptloom")
    resized_scene(scene(), 64, 8)
    assert not caplog.messages
    resized_scene(scene(), 8, 8)
    (told,) = caplog.messages
    assert "48x32 px to 16x8 px, which changes their proportions" in told


def test_a_scene_of_the_right_size_is_not_touched() -> None:
    made = resized_scene(scene(), 0, 8)
    assert torch.equal(made.images[0].image, IMAGE)
    assert torch.equal(made.images[0].masks["mug"], mask(4, 16))


def test_pictures_of_different_sizes_are_reported() -> None:
    wide = torch.zeros(32, 64, 3)
    two = scene(images=[IMAGE, wide], masks={"mug": [mask(4, 16), mask(4, 16, (32, 64))]})
    with pytest.raises(ImageError, match=r"different sizes \(48x32, 64x32\); crop them"):
        resized_scene(two, 0, 8)
