"""ConceptLoom's samplers in ComfyUI: as a SAMPLER, or run directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...errors import InputError
from .noise import input_scale, picture_scale
from .prompts import check_prompts_fit, check_spelling


@dataclass(frozen=True, slots=True)
class SamplerCall:
    """What a sampler gets from the host; x_sigma = picture_scale(sigma) x_0 + sigma noise."""

    # Latents may have an axis for time, [B, C, 1, h, w].
    denoise: Callable[[Tensor, float], Tensor]  # x_sigma, sigma -> x_0, guidance scale included
    sigmas: list[float]  # noise levels, falling
    noise: Tensor  # [B, C, h, w] unit noise from the NOISE socket
    source: Tensor  # [B, C, h, w] clean latents from the LATENT socket
    mask: Tensor | None  # [B, C, h, w] the LATENT's noise mask, 1 = redrawn
    seed: int
    report: Callable[[int, Tensor, Tensor], None]  # step, x_0, x_sigma: progress and preview
    sampling: Any  # the model's conversions

    def input_scale(self, level: float) -> float:
        """x_t / x_sigma at a noise level."""
        return input_scale(self.sampling, level)

    def picture_scale(self, level: float) -> float:
        """Share of the picture in x_sigma."""
        return picture_scale(self.sampling, level)


def sampler_of(sample: Callable[[SamplerCall], Tensor]) -> Any:
    """A SAMPLER for the host's custom sampling nodes.

    Args:
        sample: gives x_0 (or x at the last noise level).
    """

    def conceptloom_blended(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None,
        callback: Any = None, disable: Any = None, **_: Any,
    ) -> Tensor:  # fmt: skip
        arguments = dict(extra_args or {})
        # Blending is the sampler's own business; the host would do it a second time.
        mask, arguments["denoise_mask"] = arguments.get("denoise_mask"), None
        levels = sigmas.tolist()

        def denoise(latent: Tensor, sigma: float) -> Tensor:
            return model(latent, torch.full((latent.shape[0],), sigma).to(latent), **arguments)

        def report(step: int, denoised: Tensor, latent: Tensor) -> None:
            if callback is not None:
                sigma = levels[step]
                info = {"i": step, "denoised": denoised, "x": latent}
                callback(info | {"sigma": sigma, "sigma_hat": sigma})

        seed = arguments.get("seed") or 0
        sampling = model.inner_model.inner_model.model_sampling
        call = SamplerCall(
            denoise, levels, model.noise, model.latent_image, mask, seed, report, sampling
        )
        return sample(call)

    return comfy.samplers.KSAMPLER(conceptloom_blended)


def sigmas_of(model: Any, scheduler: str, steps: int) -> Tensor:
    """Noise levels [steps + 1] of one of the host's schedulers."""
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, steps)


def run_sampler(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    sampler: Any,
    sigmas: Tensor,
    latent: dict[str, Any],
    seed: int,
    *,
    adds_noise: bool = True,
    progress_of: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """A LATENT drawn by the host's own machinery, with previews, progress and cancelling.

    Args:
        adds_noise: False goes on with latents that a sampler left noisy.
        progress_of: (steps before, all steps) where several runs make up one.

    Raises:
        ModelError: the MODEL is no UNet, or was not made for these prompts.
        InputError: the latents are not those of the model.
    """
    check_prompts_fit(model, [positive, negative])
    _check_latents(model, latent["samples"])
    samples = samples_of(model, latent)
    noise = noise_for(latent, samples, seed) if adds_noise else torch.zeros_like(samples)
    before, total = progress_of
    preview = latent_preview.prepare_callback(model, total or len(sigmas) - 1)

    def callback(step: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        preview(before + step, denoised, x, total or steps)

    drawn = comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, samples,
        noise_mask=latent.get("noise_mask"), callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip
    return with_samples(latent, drawn)


def samples_of(model: Any, latent: Mapping[str, Any]) -> Tensor:
    """Latents of a LATENT; empty ones with as many channels as the MODEL has."""
    shrunk = latent.get("downscale_ratio_spacial")
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"], shrunk)


def noise_for(latent: Mapping[str, Any], samples: Tensor, seed: int) -> Tensor:
    """What a sampler adds to the latents of a LATENT, as KSampler draws it."""
    return comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))


def with_samples(latent: Mapping[str, Any], samples: Tensor) -> dict[str, Any]:
    """The LATENT after sampling; what Empty Latent Image tells of its scale holds no longer."""
    entries = {name: value for name, value in latent.items() if not name.startswith("downscale")}
    return entries | {"samples": samples}


def latent_of(model: Any, latents: Tensor) -> dict[str, Tensor]:
    """LATENT of clean latents [B, C, h, w], in the host's scale and with the host's axes."""
    has_time = model.get_model_object("latent_format").latent_dimensions == 3
    samples = latents.unsqueeze(2) if has_time else latents.clone()
    return {"samples": model.model.process_latent_out(samples)}


def _check_latents(model: Any, samples: Tensor) -> None:
    form = model.get_model_object("latent_format")
    channels, has_time = form.latent_channels, form.latent_dimensions == 3
    # Latents of zeros are Empty Latent Image's, and the host gives them the model's channels.
    fits = samples.ndim == 4 or (has_time and samples.ndim == 5 and samples.shape[2] == 1)
    if not fits or (samples.shape[1] != channels and samples.any()):
        frames = "1 x " if has_time else ""
        raise InputError(
            f"The latents have the shape {list(samples.shape)}, but this MODEL draws batch x "
            f"{channels} x {frames}height x width; encode the picture with the VAE of the same "
            "checkpoint."
        )


def conditioning_of(clip: Any, text: str) -> Any:
    """CONDITIONING of a prompt, as the host's own text node encodes it; tells of misspelt words."""
    check_spelling(clip, text)
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def masked_conditioning(parts: Sequence[tuple[Any, Tensor]]) -> Any:
    """Several CONDITIONINGs in one, each counting by its mask [H, W]; the host mixes them."""
    return [
        [
            context,
            {**options, "mask": mask[None], "set_area_to_bounds": False, "mask_strength": 1.0},
        ]
        for conditioning, mask in parts
        for context, options in conditioning
    ]


def sampler_names() -> list[str]:
    """What a KSampler offers."""
    return list(comfy.samplers.SAMPLER_NAMES)


def scheduler_names() -> list[str]:
    """What a KSampler offers."""
    return list(comfy.samplers.SCHEDULER_NAMES)


def named_sampler(name: str) -> Any:
    """One of the host's own samplers."""
    return comfy.samplers.sampler_object(name)


def ddim_sampler(eta: float) -> Any:
    """DDIM steps with any eta, which the host knows as ancestral steps of euler."""
    return comfy.samplers.ksampler("euler_ancestral", {"eta": eta})
