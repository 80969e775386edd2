"""A template: a picture as the noise it comes from, with the features it passes through (Step 3).

template.trajectory[k]   z_t at the sampler's sigma number k, from noise to the picture
template.features[k]     f_t^l at that point: ResNet residual, queries and keys; see features.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...attention.injection import Features, InjectionBlocks
from ...errors import BaseMismatchError, ConfigError, MaskError
from ...host.ports import Prompt
from ...samplers.sigmas import SAME_SIGMA
from ...scenes.masks import has_same_aspect


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """An inverted picture.

    Attributes:
        image: [H, W, 3], 0..1.
        prompt: p_src.
        sigmas: [S + 1] of the sampler that draws it again, falling to 0.
        trajectory: [S + 1, C, h, w] x_sigma at each of them, float32 on the CPU.
        timesteps: [S] at which the UNet is asked.
        blocks: where features are taken.
        features: of the first steps, as many as are kept.
        reconstruction: [H, W, 3] what the sampler draws from the noise.
        psnr: of it against what the VAE makes of the picture, in decibels.
        is_flat: of a transformer without ResNets; values of self-attention take their place.
        is_joint: of one in which text and picture are one sequence; the picture's keys and values
            are taken.
        base, model: fingerprint of the family, digest of the very checkpoint.
    """

    image: Tensor
    prompt: Prompt
    sigmas: Tensor
    trajectory: Tensor
    timesteps: tuple[float, ...]
    blocks: InjectionBlocks
    features: tuple[Features, ...]
    reconstruction: Tensor
    psnr: float
    base: str
    model: str
    is_flat: bool = False
    is_joint: bool = False

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def step_at(self, timestep: float) -> int:
        """The step that a pass of the UNet belongs to; the nearest one for samplers that look
        between two noise levels."""
        distances = [abs(known - timestep) for known in self.timesteps]
        return distances.index(min(distances))

    def feature_bytes(self) -> int:
        """Size of the stored features."""
        return sum(t.numel() * t.element_size() for of in self.features for t in of.values())


def check_sigmas(template: Template, sigmas: Tensor, highest: float = math.inf) -> None:
    """Check that a sampler uses the template's noise levels, from one of them to the end.

    Args:
        highest: `NoisePath.highest_start` of the model.

    Raises:
        ConfigError: it has others.
    """
    known, received = template.sigmas, sigmas.detach().float().cpu().reshape(-1)
    tail = known[-len(received) :] if len(received) > 1 else received[:0]
    same = len(tail) == len(received) > 1
    same = same and torch.allclose(tail, received, rtol=SAME_SIGMA, atol=1e-4)
    same = same and float(received[0]) < (1 + highest) / 2
    if not same:
        summary = (
            f"{len(received) - 1} steps from sigma {float(received[0]):.4g}"
            if len(received)
            else "none"
        )
        raise ConfigError(
            "sigmas",
            summary,
            f"those of the template ({template.steps} steps from {float(known[0]):.4g}); connect "
            "the template's sigmas to the sampler, or invert the picture again with the sampler's",
        )


def check_template(
    template: Template, fingerprint: str, digest: str, mask_size: tuple[int, int]
) -> None:
    """Whether a template fits the model and the regions.

    Args:
        fingerprint, digest: of the model to weave with.
        mask_size: (H, W) of the regions.

    Raises:
        BaseMismatchError: it was inverted on another model.
        MaskError: the regions are of another picture.
    """
    if template.base != fingerprint or template.model != digest:
        same_family = template.base == fingerprint
        raise BaseMismatchError(
            "The template was inverted on a different model"
            + (" (the same family, another checkpoint)" if same_family else "")
            + f": [{template.base}] instead of [{fingerprint}]. Invert the picture again on this "
            "model."
        )
    height, width = template.image.shape[:2]
    if not has_same_aspect(mask_size, (height, width)):
        raise MaskError(
            f"The regions are {mask_size[1]}x{mask_size[0]} px but the template is {width}x"
            f"{height} px, a different aspect ratio; make the masks from the template's picture."
        )
