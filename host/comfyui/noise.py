"""The noise path of a ComfyUI model: its levels, and whether it predicts noise or velocity."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import UnsupportedModelError
from ..noise import EpsPath, VariancePreserving, VelocityPath

PROBE_SIGMA = 2.0  # any noise level at which noise and velocity lead to different pictures


def noise_path_of(sampling: Any) -> VariancePreserving:
    """The path behind a `model_sampling` object, patched ones included.

    The object is asked what it does and not what it is called: packs and core derive many classes
    from few formulas.

    Raises:
        UnsupportedModelError: neither noise nor velocity is predicted, or not at whole timesteps.
    """
    sigmas = getattr(sampling, "sigmas", None)
    if sigmas is None or not _counts_timesteps(sampling, sigmas):
        raise UnsupportedModelError(
            f"This MODEL samples with {type(sampling).__name__}, which has no numbered timesteps; "
            "ConceptLoom needs those of Stable Diffusion. Connect the model directly from its "
            "loader."
        )
    predicts = _what_is_predicted(sampling)
    if predicts is None:
        raise UnsupportedModelError(
            "This MODEL predicts neither noise (eps) nor velocity (v), so training does not "
            "support it. Connect the model directly from its loader, without ModelSampling nodes."
        )
    alpha_bar = 1 / (sigmas.detach().double().cpu() ** 2 + 1)
    return VelocityPath(alpha_bar) if predicts == "velocity" else EpsPath(alpha_bar)


def noise_path_if_any(sampling: Any) -> VariancePreserving | None:
    """The same; None where a model is sampled in another way, which edits can do without."""
    try:
        return noise_path_of(sampling)
    except UnsupportedModelError:
        return None


def input_scale(sampling: Any, sigma: float) -> float:
    """x_t / x_sigma at a noise level, for every kind of sampling that the host has."""
    level, one = (torch.tensor([n], dtype=torch.float64) for n in (sigma, 1.0))
    return float(sampling.calculate_input(level, one))


def on_a_path(sampling: Any, timesteps: torch.Tensor, last_t: float) -> torch.Tensor:
    """What a UNet takes as timesteps, as numbers from 0 (clean) to `last_t`.

    EDM's UNets take a quarter of log sigma and distilled ones start at 19, so the share of the way
    between the sampling's own ends tells how far a picture is.
    """
    ends = torch.stack([torch.as_tensor(sampling.sigma_min), torch.as_tensor(sampling.sigma_max)])
    first, last = sampling.timestep(ends.float()).tolist()
    share = ((timesteps.float() - first) / max(last - first, 1e-6)).clamp(0, 1)
    return share * last_t


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
