"""The noise path of a ComfyUI model: its levels, and what its network predicts."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import UnsupportedModelError
from ..noise import CosmosPath, EpsPath, FlowPath, NoisePath, VelocityPath

PROBE_SIGMA = 2.0  # any noise level at which noise and velocity lead to different pictures
OUTPUT = 3.0  # what a probed network says


def noise_path_of(sampling: Any) -> NoisePath:
    """The path behind a `model_sampling` object, patched ones included.

    The object is asked what it does and not what it is called: packs and core derive many classes
    from few formulas.

    Raises:
        UnsupportedModelError: neither noise, velocity nor a flow is predicted, or noise and
            velocity not at whole timesteps.
    """
    flow = _flow_of(sampling)
    if flow is not None:
        return flow
    sigmas = getattr(sampling, "sigmas", None)
    if sigmas is None or not _counts_timesteps(sampling, sigmas):
        raise UnsupportedModelError(
            f"This MODEL samples with {type(sampling).__name__}, which has no numbered timesteps; "
            "ConceptLoom needs those of Stable Diffusion, or a flow. Connect the model directly "
            "from its loader."
        )
    predicts = _what_is_predicted(sampling)
    if predicts is None:
        raise UnsupportedModelError(
            "This MODEL predicts neither noise (eps), velocity (v) nor a flow, so training does "
            "not support it. Connect the model directly from its loader, without ModelSampling "
            "nodes."
        )
    alpha_bar = 1 / (sigmas.detach().double().cpu() ** 2 + 1)
    return VelocityPath(alpha_bar) if predicts == "velocity" else EpsPath(alpha_bar)


def noise_path_if_any(sampling: Any) -> NoisePath | None:
    """The same; None where a model is sampled in another way, which edits can do without."""
    try:
        return noise_path_of(sampling)
    except UnsupportedModelError:
        return None


def clock_of(sampling: Any, path: NoisePath) -> float:
    """What the network takes as timestep, over the path's t.

    Networks that learned numbered timesteps get those; flows are told t in units of their own.
    """
    if not isinstance(path, FlowPath):
        return 1.0
    level = path.level_at(torch.tensor([0.5]))
    return float(sampling.timestep(level)) / 0.5


def input_scale(sampling: Any, sigma: float) -> float:
    """x_t / x_sigma at a noise level, for every kind of sampling that the host has."""
    level, one = (torch.tensor([n], dtype=torch.float64) for n in (sigma, 1.0))
    return float(sampling.calculate_input(level, one))


def picture_scale(sampling: Any, sigma: float) -> float:
    """Share of the picture in x_sigma: what a sampler multiplies the latents by that it gets."""
    level, one = (torch.tensor([n], dtype=torch.float64) for n in (sigma, 1.0))
    return float(sampling.noise_scaling(level, torch.zeros_like(one), one))


def on_a_path(sampling: Any, timesteps: torch.Tensor, last_t: float) -> torch.Tensor:
    """What a UNet takes as timesteps, as numbers from 0 (clean) to `last_t`.

    EDM's UNets take a quarter of log sigma and distilled ones start at 19, so the share of the way
    between the sampling's own ends tells how far a picture is.
    """
    ends = torch.stack([torch.as_tensor(sampling.sigma_min), torch.as_tensor(sampling.sigma_max)])
    first, last = sampling.timestep(ends.float()).tolist()
    share = ((timesteps.float() - first) / max(last - first, 1e-6)).clamp(0, 1)
    return share * last_t


def _flow_of(sampling: Any) -> FlowPath | None:
    """A flow, in one of the two frames that ComfyUI samples flows in; None for anything else."""
    levels = (0.25, 0.5)
    if all(_is_flow(sampling, level, 1.0, level) for level in levels):
        return FlowPath(_shift(sampling))
    if all(_is_flow(sampling, s, 1 / (1 + s), s / (1 + s)) for s in levels):
        least, most = (float(s) for s in (sampling.sigma_min, sampling.sigma_max))
        return CosmosPath(least=least, most=most)
    return None


def _is_flow(sampling: Any, sigma: float, scale: float, t: float) -> bool:
    """Whether x_t = scale x_sigma, and x_0 = x_t - t output."""
    level, one = torch.tensor([sigma]), torch.ones(1, 1, 1, 1)
    try:
        scaled = sampling.calculate_input(level, one).item()
        denoised = sampling.calculate_denoised(level, OUTPUT * one, one).item()
    except (AttributeError, RuntimeError, TypeError):
        return False
    return abs(scaled - scale) < 1e-4 and abs(denoised - (scale - t * OUTPUT)) < 1e-4


def _shift(sampling: Any) -> float:
    """How far a schedule is bent: its middle is at shift / (shift + 1)."""
    middle = float(sampling.percent_to_sigma(0.5))
    return middle / (1 - middle)


def _counts_timesteps(sampling: Any, sigmas: torch.Tensor) -> bool:
    """Whether sigma number t belongs to timestep t."""
    places = [0, len(sigmas) // 2, len(sigmas) - 1]
    try:
        timesteps = sampling.timestep(sigmas[places])
    except (AttributeError, RuntimeError):
        return False
    return len(sigmas) > 1 and timesteps.tolist() == places


def _what_is_predicted(sampling: Any) -> str | None:
    sigma = torch.tensor([PROBE_SIGMA])
    one = torch.ones(1, 1, 1, 1)
    norm = (PROBE_SIGMA**2 + 1) ** 0.5
    if abs(sampling.calculate_input(sigma, one).item() - 1 / norm) > 1e-4:
        return None
    denoised = sampling.calculate_denoised(sigma, one, one).item()
    if abs(denoised - (1 - PROBE_SIGMA)) < 1e-4:
        return "noise"
    if abs(denoised - (1 / norm**2 - PROBE_SIGMA / norm)) < 1e-4:
        return "velocity"
    return None
