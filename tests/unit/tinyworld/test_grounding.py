"""Words are pulled towards the objects that they speak of."""

from __future__ import annotations

import math

import pytest
import torch

from conceptloom.tinyworld.checkpoint import CHECKPOINT, load_tinyworld, read_checkpoint
from conceptloom.tinyworld.model import build_text_encoder, build_unet
from conceptloom.tinyworld.recipe.diffusion_training import load_weights
from conceptloom.tinyworld.recipe.fast import record_cross_attention
from conceptloom.tinyworld.recipe.grounding import grounding_loss

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


def test_training_starts_where_the_checkpoint_stands() -> None:
    world = load_tinyworld()
    unet = build_unet(world.config)
    file = read_checkpoint()
    text = build_text_encoder(world.config, len(file.token_ids) + file.unknown_rows)
    config = load_weights(unet, text, CHECKPOINT, file.token_ids)
    assert config == world.config
    latent, context = torch.randn(1, 16, 16, 16), torch.randn(1, 77, config.context_dim)
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


def test_training_refuses_another_vocabulary() -> None:
    world, file = load_tinyworld(), read_checkpoint()
    unet = build_unet(world.config)
    text = build_text_encoder(world.config, len(file.token_ids) + file.unknown_rows)
    with pytest.raises(ValueError, match=r"tinyworld\.safetensors was trained on .* token rows"):
        load_weights(unet, text, CHECKPOINT, file.token_ids[:-1])
