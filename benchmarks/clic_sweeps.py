"""Does a figure follow what is swept? How much a word is looked at, and how a trend is told."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from conceptloom.attention.capture import read_attention
from conceptloom.host.ports import Host, Prompt

ATTENTION_SEED = 11  # of the noise that pictures are read through


def attention_under(
    host: Host, latent: Tensor, prompt: Prompt, word: str, mask: Tensor, level: int = 0
) -> float:
    """Mean probability of a word of the prompt under a mask, in a picture.

    Args:
        latent: [1, C, h, w] clean latents of the picture.
        mask: [H, W], 1 = where the word should look.
        level: see `attention.site_selection.sites_to_read`.
    """
    heat = read_attention(host, latent, prompt, [word], downsample=level, seed=ATTENTION_SEED)[word]
    inside = F.interpolate(mask[None, None], heat.shape, mode="area")[0, 0]
    return float((heat * inside).sum() / inside.sum())


def describe_trend(
    series: Sequence[Sequence[float]], over: str, values: Sequence[float], *, falls: bool = False
) -> str:
    """Whether figures rise with what is swept, or fall, as the end of a sentence.

    Args:
        series: each from the first of the values to the last.
        over: what is swept.
        falls: what they should do; otherwise rise.
    """
    means = [statistics.mean(column) for column in zip(*series, strict=True)]
    verb, sign = ("fall", -1) if falls else ("rise", 1)
    follow = [all(sign * a <= sign * b for a, b in pairwise(row)) for row in (means, *series)]
    word = f"{verb}s" if follow[0] else f"**does not {verb}**"
    alone = sum(follow[1:])
    ends = [row[-1] - row[0] for row in series]
    told = (
        f"{word} with {over} in the mean, and in {alone} of {len(series)} series by itself; from "
        f"{over} {values[0]:g} to {values[-1]:g} by {statistics.mean(ends):+.4f}"
    )
    if len(ends) < 2:
        return told
    error = statistics.stdev(ends) / len(ends) ** 0.5
    return f"{told} ± {error:.4f} (standard error over the series)"
