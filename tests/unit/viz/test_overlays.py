"""Sample strips, attention overlays and the scene preview: what is where, in which colour."""

from __future__ import annotations

import math

import pytest
import torch

from conceptloom.scenes.masks import mask_on_grid
from conceptloom.scenes.scene import make_scene
from conceptloom.viz.colors import PAPER, as_ink, concept_colours, contrast, series_colour
from conceptloom.viz.drawing import Canvas, shortened, text_width, wrapped
from conceptloom.viz.overlays import (
    attention_overlay,
    describe_scores,
    sample_strip,
    stacked,
)
from conceptloom.viz.scene_preview import deepest_point, overlaps, scene_preview

GREY = 0.4


def grey(height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.full((height, width, 3), GREY)


def left_half(height: int = 64, width: int = 64) -> torch.Tensor:
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1
    return mask


def count(picture: torch.Tensor, colour: tuple[int, ...]) -> int:
    return int(((picture * 255 - torch.tensor(colour)).abs().amax(dim=-1) < 2).sum())


def is_grey(picture: torch.Tensor) -> torch.Tensor:
    return (picture - GREY).abs().amax(dim=-1) < 0.01


def test_small_pictures_are_enlarged_and_keep_their_colour() -> None:
    strip = sample_strip([grey(16, 16)] * 4, [""] * 4)
    assert is_grey(strip).sum() >= 4 * 128 * 128


def test_pictures_keep_their_aspect() -> None:
    strip = is_grey(sample_strip([grey(32, 64)], [""]))
    assert strip.any(dim=0).sum() == pytest.approx(2 * int(strip.any(dim=1).sum()), abs=2)


@pytest.mark.parametrize(("n", "n_columns", "expected"), [(2, None, 2), (8, None, 4), (6, 2, 2)])
def test_pictures_stand_in_rows(n: int, n_columns: int | None, expected: int) -> None:
    strip = is_grey(sample_strip([grey()] * n, [""] * n, n_columns=n_columns))
    middle = strip[strip.any(dim=1).nonzero()[5, 0]].int()
    assert (middle.diff() == 1).sum() == expected


def test_pictures_of_different_sizes_share_a_sheet() -> None:
    strip = sample_strip([grey(64, 64), grey(300, 200), grey(20, 90)], ["a", "b", "c"])
    assert strip.shape[1] <= 1100
    assert is_grey(strip).any(dim=0).sum() > 600


def test_handles_stand_in_the_colour_of_their_concept() -> None:
    colours = concept_colours(["mug", "bear"])
    strip = sample_strip([grey()], ["a <bear> at the beach"], colours)
    assert count(strip, as_ink(colours["bear"])) > 5
    assert count(strip, as_ink(colours["mug"])) == 0
    assert count(sample_strip([grey()], ["a bear"], colours), as_ink(colours["bear"])) == 0


def test_every_picture_needs_its_caption() -> None:
    with pytest.raises(ValueError, match="zip"):
        sample_strip([grey(), grey()], ["only one"])


def test_nothing_to_show_says_so() -> None:
    blank = torch.tensor(PAPER) / 255
    for picture in (sample_strip([], []), attention_overlay(grey(), {})):
        assert picture.ndim == 3
        assert (picture - blank).abs().max() > 0.3


def test_long_captions_are_cut_to_their_width() -> None:
    lines = wrapped("a photo of a very long thing " * 5, 14, 200, 2)
    assert len(lines) == 2
    assert all(text_width(line, 14) <= 200 for line in lines)
    assert lines[1].endswith("...")
    assert shortened("short", 14, 200) == "short"


def test_heat_lies_where_the_word_looks() -> None:
    overlay = attention_overlay(grey(), {"mug": left_half(16, 16)})
    height, width = overlay.shape[:2]
    panel = overlay[40 : height // 2, 40 : width - 40]
    left, right = panel[:, : panel.shape[1] // 3], panel[:, -panel.shape[1] // 3 :]
    assert left.mean() > right.mean() + 0.2
    assert left[..., 2].mean() > left[..., 0].mean() + 0.1  # the first concept is blue
    assert right.amax(dim=-1).mean() < GREY  # dimmed


def test_one_panel_per_word_in_its_own_colour() -> None:
    mask = left_half()
    maps = {"mug": torch.zeros(8, 8), "bear": torch.zeros(8, 8)}
    both = attention_overlay(grey(), maps, {"mug": mask, "bear": mask})
    half = both.shape[1] // 2
    for panel, index in ((both[:, :half], 0), (both[:, half:], 1)):
        assert count(panel, series_colour(index)) > 100  # its outline
        assert count(panel, series_colour(1 - index)) == 0


def test_a_concept_keeps_its_colour_when_shown_alone() -> None:
    colours = concept_colours(["mug", "bear"])
    alone = attention_overlay(
        grey(), {"bear": torch.zeros(8, 8)}, {"bear": left_half()}, None, colours
    )
    assert count(alone, colours["bear"]) > 100
    assert count(alone, colours["mug"]) == 0


def test_scores_and_masks_may_be_missing() -> None:
    heat = {"mug": left_half(8, 8)}
    bare = attention_overlay(grey(), heat)
    outlined = attention_overlay(grey(), heat, {"mug": left_half()})
    scored = attention_overlay(grey(), heat, {}, {"mug": (0.812, 0.12)})
    assert bare.shape == outlined.shape == scored.shape
    assert not torch.equal(bare, outlined)
    assert not torch.equal(bare, scored)
    assert describe_scores(0.812, 0.12) == "IoU 0.81  leak 0.12"
    assert describe_scores(math.nan, math.nan) == "IoU -  leak -"


def test_a_map_that_is_not_finite_draws_no_heat() -> None:
    heat = torch.full((8, 8), math.nan)
    overlay = attention_overlay(grey(), {"mug": heat})
    assert overlay.isfinite().all()
    panel = overlay[60:200, 60:200]
    assert (panel - 0.35 * GREY).abs().max() < 0.01


def test_stacked_pictures_keep_their_pixels() -> None:
    both = stacked([grey(10, 30), grey(5, 20)])
    assert both.shape == (15, 30, 3)
    assert is_grey(both).sum() == 10 * 30 + 5 * 20
    assert torch.allclose(both[12, 25] * 255, torch.tensor(PAPER).float())


def two_concepts() -> dict[str, list[torch.Tensor | None]]:
    mug, bear = torch.zeros(64, 64), torch.zeros(64, 64)
    mug[8:24, 8:24] = 1
    bear[16:48, 16:48] = 1
    return {"mug": [mug], "bear": [bear]}


def test_overlap_is_reported_as_share_of_the_smaller_mask() -> None:
    masks = {name: mask for name, (mask,) in two_concepts().items() if mask is not None}
    assert overlaps(masks) == {("mug", "bear"): pytest.approx(64 / 256)}
    masks["bear"] = torch.zeros(64, 64)
    masks["bear"][40:, 40:] = 1
    assert overlaps(masks) == {}


def test_the_latent_view_is_what_training_takes() -> None:
    """Between the pixels that nearest neighbour looks at a line still has its cells."""
    told, line = [], torch.zeros(64, 64)
    line[9] = 1
    scene = make_scene([grey()], {"mug": [line]}, {})
    assert mask_on_grid(line, (8, 8)).sum() == 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Canvas, "text", lambda canvas, place, text, *more, **_: told.append(text))
        scene_preview(scene, (8, 8))
    assert "1.6 % of the picture, 8 cells" in told


def test_the_preview_shows_every_concept_in_its_colour() -> None:
    scene = make_scene([grey()], two_concepts(), {"mug": "cup"})
    plain, with_grid = scene_preview(scene), scene_preview(scene, (8, 8))
    assert with_grid.shape[1] > 1.7 * plain.shape[1]
    for colour in concept_colours(scene.names).values():
        assert count(plain, colour) > 100
    told = concept_colours(["bear", "mug"])
    swapped = scene_preview(scene, None, told)
    assert swapped.shape == plain.shape
    assert not torch.equal(swapped, plain)


def test_the_picture_keeps_its_colours_under_outlines_and_numbers() -> None:
    image = torch.zeros(64, 64, 3)
    image[8:24, 8:24] = torch.tensor([0.0, 0.25, 0.0])  # a dark green mug
    image[32:60, 32:60] = torch.tensor([1.0, 0.5, 0.0])  # an orange bear
    mug, bear = torch.zeros(64, 64), torch.zeros(64, 64)
    mug[8:24, 8:24] = 1
    bear[32:60, 32:60] = 1
    scene = make_scene([image], {"mug": [mug], "bear": [bear]}, {})
    preview = scene_preview(scene)
    scale, left = 384 / 64, 24
    for y, x in ((11, 11), (56, 56), (36, 56)):  # inside, away from edge and number
        seen = preview[round(left + y * scale), round(left + x * scale)]
        torch.testing.assert_close(seen, image[y, x], atol=0.01, rtol=0)
    for colour in concept_colours(scene.names).values():
        assert count(preview, colour) > 100


def test_a_scene_has_a_row_for_every_picture() -> None:
    masks = two_concepts()
    one = scene_preview(make_scene([grey()], masks, {}), (8, 8))
    both = {"mug": [*masks["mug"], None], "bear": [*masks["bear"], left_half(32, 96)]}
    two = scene_preview(make_scene([grey(), grey(32, 96)], both, {}), (8, 8))
    assert two.shape[0] > one.shape[0] + 150
    assert two.shape[1] > one.shape[1] - 100


def test_a_mask_too_small_is_reported_in_red() -> None:
    alarm = (190, 30, 45)
    masks = two_concepts()
    assert count(scene_preview(make_scene([grey()], masks, {}), (8, 8)), alarm) == 0
    speck = torch.zeros(64, 64)
    speck[51, 51] = 1
    masks["speck"] = [speck]
    assert count(scene_preview(make_scene([grey()], masks, {}), (8, 8)), alarm) > 10


def test_the_number_stands_inside_of_a_ring() -> None:
    yy, xx = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    radius = ((yy - 32) ** 2 + (xx - 32) ** 2).sqrt()
    ring = ((radius > 15) & (radius < 27)).float()
    y, x = deepest_point(ring)
    assert ring[int(y * 64), int(x * 64)] == 1
    assert deepest_point(torch.ones(20, 30)) == pytest.approx((0.5, 0.5), abs=0.02)


def test_letters_are_dark_enough_to_read() -> None:
    for index in range(24):
        assert contrast(as_ink(series_colour(index)), PAPER) >= 4.5
