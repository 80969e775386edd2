"""Cross-attention guidance: moves latents so that words attend to their masks.

CLiC (Safaee et al., CVPR 2024, arXiv 2311.17083, Sec. 3.4 "cross-attention guidance"; official
transfer.py:113-142), based on Attend-and-Excite (Chefer et al. 2023, arXiv 2301.13826):

    x <- x - eta grad_x || CA(v*, x) - M ||^2

    CA            cross-attention probabilities of the words, head and layer mean, not normalised
    M             their target: a mask, or ones everywhere (the official code)
    eta > 0       attracts the words; eta < 0 repels them

All values are for unit-variance latents x_t, the network's input.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.maps import AttentionCapture, TokenQuery
from ..attention.site_selection import rising_sites
from ..errors import ConfigError
from ..host.ports import StopForward, Tokens, TransformerSite, UNetSites
from ..training.setting import check_settings, setting

log = logging.getLogger("conceptloom")

GUIDANCE = "Guidance"  # panel of the command line's help

# Tried until the gradient is finite. Half precision loses what is below 6e-8 or above 65504 on its
# way back through the UNet; in float32 powers of two change no digit.
LOSS_SCALES = (2.0**10, 1.0, 2.0**-12)


class Rule(str, Enum):
    """The step of the latents."""

    SIGN = "sign"  # eta in every element: what the official code's first step of Adam comes to
    GRADIENT = "gradient"  # eta times the gradient, as the paper writes it


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceConfig:
    """Settings of the guidance of words."""

    eta: float = setting(  # transfer.py: 0.001 * att_opt, the authors' 10
        0.01,
        option="guide_eta",
        help="Guidance strength. Positive values attract the words to the mask, negative values "
        "repel them, 0 changes nothing. With rule sign, 0.01 is gentle and 0.05 strong; with "
        "gradient try 0.1 to 10.",
        minimum=-1000.0,
        maximum=1000.0,
        step=0.001,
        rounding=0.00001,
        panel=GUIDANCE,
    )
    steps: int = setting(  # transfer.py:113 (of 50)
        30,
        option="guide_steps",
        help="Number of guided steps at the start of the schedule. Few set the layout; guiding "
        "all takes up to three times as long.",
        minimum=0,
        maximum=10_000,
        panel=GUIDANCE,
    )
    rule: Rule = setting(
        Rule.SIGN,
        option="guide_rule",
        help="sign moves every latent by eta (the authors' code); gradient moves it by eta times "
        "the gradient (the paper).",
        is_advanced=True,
        panel=GUIDANCE,
    )
    downsample: int = setting(
        0,
        name="level",
        option="guide_downsample",
        help="Downsampling factor of the guiding attention maps, relative to the latents. 0 uses "
        "all maps as the authors do (on Anima, Z-Image and Krea 2 those that locate words best); "
        "4 alone is cheaper and coarser.",
        choices={str(factor): factor for factor in (0, 1, 2, 4, 8)},
        is_advanced=True,
        panel=GUIDANCE,
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def wants(self, step: int) -> bool:
        """Whether a step (0 is the noisiest of the whole schedule) is guided."""
        return self.eta != 0 and step < self.steps


@dataclass(frozen=True, slots=True)
class AttentionTarget:
    """Words of a prompt, and the target of their attention."""

    positions: tuple[int, ...]  # of their tokens; their probabilities are summed
    length: int  # tokens of the whole prompt
    target: Tensor | None = None  # [h, w] mask of any size, 0..1; None for ones everywhere


TargetsIn = Callable[[Tokens], Sequence[AttentionTarget]]  # of one prompt


def guided_sites(sites: UNetSites, downsample: int = 0) -> list[TransformerSite]:
    """Blocks for guidance, see `rising_sites`.

    Raises:
        ModelError, ConfigError: the model has no cross-attention with that downsampling factor.
    """
    guided = rising_sites(sites)
    chosen = [site for site in guided if downsample in (0, site.downsample)]
    if not chosen:
        there = ", ".join(str(n) for n in sorted({site.downsample for site in guided}))
        raise ConfigError("level", downsample, f"one of {there} for this model, or 0 for all")
    return chosen


def attention_distance(
    capture: AttentionCapture,
    attention_targets: Sequence[AttentionTarget],
    rows: int,
    size: tuple[int, int],
    targets_in: TargetsIn | None = None,
) -> Tensor:
    """Sum over rows and targets of || CA - M ||^2, float32.

    Differs from the official code, which takes the mean over the map: its step uses only the
    sign, and the sum is the paper's norm.

    Args:
        rows: B, the latents of the pass; every one is a row of the same prompt.
        size: (h, w) of the latents, to which all maps are resized (bilinear).
        targets_in: for rows of other prompts that another pack adds to the pass.
    """
    others = capture.prompts_of_others if targets_in else ()
    pairs = [
        (row, w) for row, t in enumerate(others) for w in (targets_in(t) if targets_in else ())
    ]
    pairs = pairs or [
        (row, attention_target) for row in range(rows) for attention_target in attention_targets
    ]
    if not pairs:
        return torch.zeros(())
    maps = capture.maps([TokenQuery(row, w.positions, w.length) for row, w in pairs], size)
    targets = torch.stack([_target(attention_target, size, maps) for _, attention_target in pairs])
    return (maps - targets).square().sum()


def _target(attention_target: AttentionTarget, size: tuple[int, int], like: Tensor) -> Tensor:
    if attention_target.target is None:
        return torch.ones(size, device=like.device, dtype=like.dtype)
    return F.interpolate(attention_target.target[None, None].to(like), size, mode="area")[0, 0]


def latent_gradient(
    forward: Callable[[Tensor, AttentionCapture], object],
    latent: Tensor,
    attention_targets: Sequence[AttentionTarget],
    sites: Sequence[TransformerSite],
    targets_in: TargetsIn | None = None,
) -> Tensor:
    """Gradient of the distance to the latents, [B, C, h, w] float32.

    The pass ends after the last block with a needed map. A gradient that overflows at every scale
    becomes zero, with a warning.

    Differs from the official code, whose processor gives attention outputs without a gradient
    (src/att_processor.py): a fifth of the signs differ (docs/notation.md).

    Args:
        forward: the model's pass on latents, with this edit in it; autograd is on.
        targets_in: see `attention_distance`.
    """
    with torch.enable_grad():
        moving = latent.detach().clone().requires_grad_(True)
        capture = AttentionCapture(sites, stop=True)
        with contextlib.suppress(StopForward):
            forward(moving, capture)
        distance = attention_distance(
            capture,
            attention_targets,
            latent.shape[0],
            (latent.shape[-2], latent.shape[-1]),
            targets_in,
        )
        capture.clear()
        if not distance.requires_grad:  # no row of this pass holds a word
            return torch.zeros_like(latent, dtype=torch.float32)
        for scale in LOSS_SCALES:
            scaled = torch.autograd.grad(distance * scale, moving, retain_graph=True)[0]
            gradient = scaled.float() / scale
            if gradient.isfinite().all():
                return gradient.detach()
    log.warning("guidance: the gradient of a step overflows in this precision; skipping the step")
    return torch.zeros_like(latent, dtype=torch.float32)


def moved(latent: Tensor, gradient: Tensor, config: GuidanceConfig) -> Tensor:
    """x - eta grad, or x - eta sign(grad), in float32 and the latents' own precision at the end.

    In half precision, Adam's first step divides by zero where the gradient is below 5e-3; the
    sign is the intended result.
    """
    direction = gradient.sign() if config.rule is Rule.SIGN else gradient
    return (latent.float() - config.eta * direction).to(latent.dtype)
