"""Plain drawing with a tiny transformer in diffusers' classes: prompts in, pictures out.

The same as ComfyUI's KSampler with Euler and the schedule "simple".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .checkpoint import DitModules
from .tokens import TEMPLATE, qwen_ids, t5_ids

STEPS = 25
GUIDANCE = 4.0
LEVELS = 1000  # that ComfyUI's schedules choose from
PADDED = 32  # Z-Image fills its text up to a multiple of this


def noise_levels(steps: int, shift: float) -> Tensor:
    """[steps + 1] noise levels from 1 to 0, evenly spaced before the shift.

    Source: Esser et al., arXiv 2403.03206, equation 23.
    """
    chosen = torch.tensor([LEVELS - i * LEVELS // steps for i in range(steps)] + [0])
    even = chosen.double() / LEVELS
    return (shift * even / (1 + (shift - 1) * even)).float()


@torch.no_grad()
def encode_prompt(world: DitModules, prompt: str) -> Tensor:
    """[L, D] context of one prompt; Anima's is filled with zeros up to 512 rows."""
    if world.adapter is not None:
        states = world.text_encoder(input_ids=torch.tensor([qwen_ids(prompt)])).last_hidden_state
        return world.adapter(states, torch.tensor([t5_ids(prompt)]))[0]
    ids = torch.tensor([qwen_ids(prompt, TEMPLATE)])
    return world.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-2][0]


@torch.no_grad()
def velocity(
    world: DitModules, latent: Tensor, sigma: Tensor, contexts: Sequence[Tensor]
) -> Tensor:
    """Predicted noise - x_0, [B, C, h, w].

    Args:
        latent:   [B, C, h, w] noisy, scaled.
        sigma:    [B] noise levels, 0..1.
        contexts: B of `encode_prompt`.
    """
    if world.adapter is not None:
        moved = world.transformer(
            hidden_states=latent[:, :, None],
            timestep=sigma,
            encoder_hidden_states=torch.stack(list(contexts)),
            return_dict=False,
        )[0]
        return moved[:, :, 0]
    made = torch.empty_like(latent)
    filled = [-(-len(context) // PADDED) for context in contexts]
    for length in set(filled):  # so that none needs a mask
        group = [i for i, other in enumerate(filled) if other == length]
        out = world.transformer(
            [latent[i][:, None] for i in group],
            1 - sigma[group],
            [contexts[i] for i in group],
            return_dict=False,
        )[0]
        made[group] = -torch.stack([one[:, 0] for one in out])
    return made


@torch.no_grad()
def draw(
    world: DitModules,
    prompts: Sequence[str],
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Euler's method with classifier-free guidance; pictures [B, H, W, 3], 0..1."""
    config, count = world.config, len(prompts)
    contexts = [encode_prompt(world, prompt) for prompt in prompts]
    both = [*[encode_prompt(world, "")] * count, *contexts]
    shape = (count, config.latent_channels, config.latent_size, config.latent_size)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    levels = noise_levels(steps, config.shift)
    for level, after in pairwise(levels):
        moved = velocity(world, latent.repeat(2, 1, 1, 1), level.repeat(2 * count), both)
        plain, conditional = moved.chunk(2)
        latent = latent + (after - level) * (plain + guidance * (conditional - plain))
    image = world.vae.decode(latent / config.scaling).sample
    return (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
