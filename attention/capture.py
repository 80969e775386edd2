"""Attention maps of an existing picture, read from one denoising step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, PromptError
from ..host.ports import Host, Progress, Prompt, no_progress
from ..host.prompt_text import HANDLE, composed
from .maps import AttentionCapture, TokenQuery
from .site_selection import sites_to_read

LAST_NUMBER = 999
READ_AT = (200, 400, 600)  # timesteps: objects are laid out, and still attended to


def word_positions(host: Host, prompt: Prompt, word: str) -> tuple[int, ...]:
    """Positions of a word, phrase or handle (`<mug>`) in a prompt.

    Raises:
        PromptError: the prompt does not contain it.
    """
    handle = HANDLE.fullmatch(word.strip())
    positions = (
        prompt.find_handle(composed(handle[1])) if handle else prompt.find(host.tokenize(word))
    )
    if not positions:
        raise PromptError(
            f"The prompt {prompt.text!r} does not contain {word!r}; add it, or choose another word."
        )
    return positions


@torch.no_grad()
def read_attention(
    host: Host,
    latent: Tensor,
    prompt: Prompt,
    words: Sequence[str],
    *,
    timesteps: Sequence[int] = READ_AT,
    downsample: int = 0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Mapping[str, Tensor]:
    """Cross-attention map of each word, mean over heads, layers and timesteps.

    Args:
        latent: [1, C, h, w] clean latents of the picture.
        words: words, phrases or handles of the prompt.
        timesteps: noise levels to read at, 0..T-1; 0..999 where levels have no numbers.
        downsample: see `attention.site_selection.sites_to_read`.
        progress: called before every pass; may raise to cancel.

    Returns:
        word -> [gh, gw] probabilities, float32 on the CPU.
    """
    path = host.noise_path
    last = path.last_t if path.numbered(1) == 1 else LAST_NUMBER
    if not timesteps or not all(0 <= t <= last for t in timesteps):
        raise ConfigError("timesteps", list(timesteps), f"between 0 and {last}")
    queries = [
        TokenQuery(0, word_positions(host, prompt, word), len(prompt.tokens)) for word in words
    ]
    capture = AttentionCapture(sites_to_read(host.sites, tuple(latent.shape[-2:]), downsample))
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(())
    for done, timestep in enumerate(timesteps):
        progress(done, len(timesteps))
        at = torch.tensor([path.numbered(timestep)], device=host.device)
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        host.predict(path.add_noise(latent, noise, at), at, [prompt], [capture])
        total = total + capture.maps(queries).cpu()
    return dict(zip(words, total / len(timesteps), strict=True))
