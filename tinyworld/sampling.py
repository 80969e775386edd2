"""Plain sampling with guidance, for the gates and the sample sheet: prompts in, pictures out.

The pack's own samplers live elsewhere; this one has no options, so that figures stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .checkpoint import TinyWorldModules
from .model import SCHEDULE, TOKENS

STEPS = 25
GUIDANCE = 4.0


@torch.no_grad()
def encode_prompts(world: TinyWorldModules, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids [B, 77] and context [B, 77, D]."""
    encoded = world.tokenizer(
        list(prompts), padding="max_length", max_length=TOKENS, truncation=True
    )
    ids = torch.tensor(encoded.input_ids)
    return ids, world.text_encoder(input_ids=ids)[0]


@torch.no_grad()
def draw(
    world: TinyWorldModules,
    prompts: Sequence[str],
    seed: int,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Deterministic DDIM with classifier-free guidance; pictures [B, H, W, 3], 0..1."""
    from diffusers import DDIMScheduler

    config = world.config
    scheduler = DDIMScheduler(
        **SCHEDULE,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=config.prediction_type,
    )
    scheduler.set_timesteps(steps)
    _, context = encode_prompts(world, prompts)
    _, empty = encode_prompts(world, [""])
    both = torch.cat([empty.expand_as(context), context])
    side = config.latent_size
    generator = torch.Generator().manual_seed(seed)
    shape = (len(prompts), config.latent_channels, side, side)
    latent = torch.randn(shape, generator=generator)
    for timestep in scheduler.timesteps:
        plain, conditional = world.unet(torch.cat([latent, latent]), timestep, both).sample.chunk(2)
        guided = plain + guidance * (conditional - plain)
        latent = scheduler.step(guided, timestep, latent).prev_sample
    image = world.vae.decode(latent / config.scaling_factor).sample
    return (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


class AttentionRecorder:
    """diffusers attention processor that keeps cross-attention, averaged over heads."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []  # [B, Q, 77] per cross-attention layer, in call order

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """[B, Q, C] -> [B, Q, C]."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [B, heads, tokens, d]
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probs = ((q * attn.scale) @ k.transpose(-1, -2)).softmax(-1)
        if encoder_hidden_states is not None:
            self.maps.append(probs.mean(1))
        return attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
def word_maps(
    world: TinyWorldModules, latent: Tensor, context: Tensor, noise: Tensor, timestep: int
) -> Tensor:
    """Cross-attention at latent resolution, mean over its layers: [B, 77, h, w].

    Args:
        latent:   [B, C, h, w]  scaled latents of the pictures.
        context:  [B, 77, D]
        noise:    [B, C, h, w]  unit variance.
        timestep: training index at which the noised latent is looked at.
    """
    recorder = AttentionRecorder()
    before = dict(world.unet.attn_processors)
    world.unet.set_attn_processor(recorder)
    try:
        steps = torch.full((len(latent),), timestep)
        world.unet(world.scheduler.add_noise(latent, noise, steps), steps, context)
    finally:
        world.unet.set_attn_processor(before)
    h, w = latent.shape[-2:]
    finest = [m for m in recorder.maps if m.shape[1] == h * w]
    return torch.stack(finest).mean(0).transpose(1, 2).unflatten(-1, (h, w))
