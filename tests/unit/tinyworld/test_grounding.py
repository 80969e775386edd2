"""Words are pulled towards the objects that they speak of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conceptloom.tinyworld.checkpoint import CHECKPOINT, load_tinyworld, load_tokenizer
from conceptloom.tinyworld.data import MASK_SIDE, item_words, small_masks, world_token_ids
from conceptloom.tinyworld.diffusion_training import UNKNOWN_ROWS, load_weights
from conceptloom.tinyworld.fast import record_cross_attention
from conceptloom.tinyworld.grounding import grounding_loss
from conceptloom.tinyworld.model import build_text_encoder, build_unet
from conceptloom.tinyworld.world import random_scene

WHOLE = torch.ones(1)


def attention_on(*cells: int) -> torch.Tensor:
    """[1, 4, 3]: the second of three tokens looks at these cells of a 2x2 map, in equal parts."""
    maps = torch.full((1, 4, 3), 0.1)
    maps[0, :, 1] = 0.0
    maps[0, list(cells), 1] = 0.4
    return maps


def loss(maps: torch.Tensor, weight: torch.Tensor = WHOLE) -> float:
    """Against an item in the left half; the second token speaks of it."""
    masks = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    return float(grounding_loss([maps], masks, torch.tensor([[0, 1, 0]]), weight))


def test_attention_that_covers_the_mask_evenly_costs_nothing() -> None:
    assert loss(attention_on(0, 2)) == pytest.approx(0, abs=1e-5)


def test_the_loss_by_hand() -> None:
    # half of the attention falls outside: sum of 1/2 log(1/2 / 1/4) over two cells
    assert loss(attention_on(0, 1, 2, 3)) == pytest.approx(math.log(2), abs=1e-4)
    assert loss(attention_on(0, 1, 2, 3), torch.tensor([0.5])) == pytest.approx(math.log(2) / 2)


def test_one_point_of_the_mask_is_not_enough() -> None:
    assert loss(attention_on(0)) > loss(attention_on(0, 1, 2, 3)) > loss(attention_on(0, 2))


def test_a_caption_without_items_costs_nothing() -> None:
    nothing = grounding_loss(
        [attention_on(0)], torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, dtype=torch.uint8), WHOLE
    )
    assert float(nothing) == 0


def test_words_are_those_of_their_items() -> None:
    rng, tokenizer = np.random.default_rng(5), load_tokenizer()
    for _ in range(60):
        scene = random_scene(rng)
        item_of = item_words(scene, tokenizer)
        ids = tokenizer(scene.caption).input_ids
        for number, item in enumerate(scene.items):
            spoken = [ids[i] for i in np.flatnonzero(item_of == number + 1)]
            words = tokenizer.decode(spoken).split()
            assert words[-1] == (item.shape or item.words)
            assert set(words) <= {item.colour, item.texture, item.shape, item.words}
        assert item_of.max() == len(scene.items)


def test_small_masks_keep_the_area() -> None:
    scene = random_scene(np.random.default_rng(2))
    small = small_masks(scene)[: len(scene.items)] / 255
    assert small.shape[1:] == (MASK_SIDE, MASK_SIDE)
    assert small.mean((1, 2)) == pytest.approx(scene.masks.mean((1, 2)), abs=2e-3)


def test_training_starts_where_the_checkpoint_stands() -> None:
    world = load_tinyworld()
    unet = build_unet(world.config)
    text = build_text_encoder(world.config, len(world_token_ids()) + UNKNOWN_ROWS)
    config, figures = load_weights(unet, text, CHECKPOINT)
    assert config == world.config
    assert figures["samples"] > 0
    latent, context = torch.randn(1, 4, 16, 16), torch.randn(1, 77, config.context_dim)
    maps = record_cross_attention(unet)
    with torch.no_grad():
        found = unet.eval()(latent, 500, context).sample
        torch.testing.assert_close(found, world.unet(latent, 500, context).sample)
    assert len(maps) == sum(1 for name in world.unet.attn_processors if "attn2" in name)
    assert all(m.shape[-1] == 77 for m in maps)
    last = text.state_dict()
    assert all(
        torch.equal(last[n], v)
        for n, v in world.text_encoder.state_dict().items()
        if "layers.0" in n
    )
