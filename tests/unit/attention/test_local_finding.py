"""Attention of several passes and steps, collected into the masks of a run."""

from __future__ import annotations

import torch

from conceptloom.attention.local_finding import RunMasks, Schedule
from conceptloom.attention.local_lora import LocalConfig, LocalLora
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
