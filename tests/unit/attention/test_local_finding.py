"""Attention of several passes and steps, collected into the masks of a run."""

from __future__ import annotations

import pytest
import torch

from conceptloom.attention.local_finding import RunMasks
from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.attention.local_masks import Cut, cut_masks
from conceptloom.attention.local_schedule import Schedule
from conceptloom.concepts.lora_file import LoraFile

GRID = (8, 8)
TIMES = [999 - 100 * step for step in range(10)]
FINDING = 3  # steps


def attention_of(step: int, picture: int) -> torch.Tensor:
    """[1, G, N] of one picture."""
    generator = torch.Generator().manual_seed(10 * step + picture)
    return torch.rand(1, 2, GRID[0] * GRID[1], generator=generator)


def found(passes: list[list[torch.Tensor]]) -> torch.Tensor:
    """Masks after steps of so many passes, each with attention [P, G, N]."""
    loras = [
        LocalLora(
            file=LoraFile(changes={}, identity=word), name=word, words=word, tokens=(word,),
            config=LocalConfig(found_after=FINDING / len(TIMES)),
        )
        for word in ("cat", "mug")
    ]  # fmt: skip
    shown: list[torch.Tensor] = []
    masks = RunMasks(loras, Schedule(TIMES, 999), shown.append)
    shape = (len(passes[0][0]), *GRID)
    for step, ones in enumerate(passes):
        for attention in ones:
            masks.begin(TIMES[step], shape)
            masks.watch(attention, GRID)
            masks.end()
    assert not shown
    masks.begin(TIMES[len(passes)], shape)
    (mask,) = shown
    return mask


def part(step: int, picture: int) -> torch.Tensor:
    """[P, G, N] of a pass with one of two pictures: zeros for the other."""
    attention = torch.zeros(2, 2, GRID[0] * GRID[1])
    attention[picture] = attention_of(step, picture)[0]
    return attention


def test_parts_of_a_batch_find_what_each_picture_finds_alone():
    alone = [
        found([[attention_of(step, picture)] for step in range(FINDING)]) for picture in (0, 1)
    ]
    assert not torch.equal(*alone)
    for order in ((0, 1), (1, 0)):
        together = found([[part(step, picture) for picture in order] for step in range(FINDING)])
        torch.testing.assert_close(together, torch.cat(alone))


def test_of_several_prompts_at_a_step_the_strongest_counts():
    prompts = [[attention_of(step, prompt) for prompt in (0, 1)] for step in range(FINDING)]
    masks = found(prompts)
    torch.testing.assert_close(masks, found([ones[::-1] for ones in prompts]))
    assert not torch.equal(masks, found([ones[:1] for ones in prompts]))


def located(**config: object) -> RunMasks:
    """Of one LoRA, in a run of ten steps with its attention in a corner; shows what it shows."""
    lora = LocalLora(
        file=LoraFile(changes={}, identity="cat"), name="cat", words="cat", tokens=("cat",),
        config=LocalConfig(found_after=FINDING / len(TIMES), **config),
    )  # fmt: skip
    return RunMasks([lora], Schedule(TIMES, 999), [].append)


def corner(size: int) -> torch.Tensor:
    """Attention [1, 1, N] to a square in a corner."""
    plane = torch.full(GRID, 0.1)
    plane[:size, :size] = 1
    return plane.view(1, 1, -1)


def areas(masks: RunMasks, sizes: list[int]) -> list[float]:
    """How large the mask of each step is; attention counts where it is watched."""
    found: list[float] = []
    for time, size in zip(TIMES, sizes, strict=True):
        masks.begin(time, (1, *GRID))
        found.append(float(masks.masks(torch.device("cpu")).sum()) if masks.active(0) else 0.0)
        if masks.is_finding:
            masks.watch(corner(size), GRID)
        masks.end()
    return found


def test_a_lora_fades_in_inside_its_mask_while_it_is_found():
    usual = areas(located(), [3] * 10)
    faded = areas(located(fade_in=0.6), [3] * 10)
    assert usual[:FINDING] == [0, 0, 0]
    assert faded[0] == 0  # nothing was seen yet
    assert faded[1:3] == pytest.approx([0.2 * usual[3], 0.4 * usual[3]])
    assert faded[3:] == usual[3:]
    masks = located(fade_in=0.6)
    assert areas(masks, [3] * 10) == areas(masks, [3] * 10)  # a second run begins anew


def test_a_second_look_makes_masks_of_what_has_become_of_the_object():
    sizes = [3, 3, 3, 3, 3, 6, 3, 3, 3, 3]
    usual, again = areas(located(), sizes), areas(located(second_look=0.5), sizes)
    assert again[:6] == usual[:6]
    assert again[6] > 1.3 * again[5]
    assert len(set(again[6:])) == 1


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.99, 1.0])
def test_no_second_look_before_the_first_nor_at_the_end(share: float):
    assert areas(located(second_look=share), [3, 3, 3, *[6] * 7]) == areas(located(), [3] * 10)


def test_masks_of_a_run_are_shown_once():
    shown: list[torch.Tensor] = []
    for share in (1.0, 0.5, 0.95):
        masks = located(second_look=share)
        masks._on_masks = shown.append
        areas(masks, [3] * 10)
        assert len(shown) == 1
        shown.clear()


def test_a_large_object_grows_by_more_than_a_small_one():
    attention = torch.full((2, 1, 32, 32), 0.1)
    attention[0, :, 8:12, 8:12] = attention[1, :, 8:24, 8:24] = 1
    small, large = (
        cut_masks(attention, [Cut(grow=0.0, grow_by_size=by)])[:, 0] > 0.5 for by in (0.0, 0.5)
    )
    gained = large.any(1).sum(-1) - small.any(1).sum(-1)  # columns
    radii = (small.sum((-2, -1)) / torch.pi).sqrt()
    assert gained.tolist() == (2 * (0.5 * radii).round()).tolist()
    assert gained[1] > 2 * gained[0] > 0
