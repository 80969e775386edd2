"""Creates a template: inversion, reconstruction, features (Step 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...concepts.fingerprints import model_digest
from ...errors import ImageError
from ...host.ports import Host, Progress, no_progress
from ...samplers.inversion import invert, psnr, reconstruct
from ...samplers.sigmas import checked_sigmas
from .config import InversionConfig, Keep
from .features import (
    blocks_of,
    check_room,
    describe_size,
    feature_cost,
    kept_steps,
    with_features,
)
from .template import Template


def make_template(
    host: Host,
    image: Tensor,
    text: str,
    sigmas: Tensor,
    config: InversionConfig | None = None,
    *,
    progress: Progress = no_progress,
) -> Template:
    """Invert a picture, reconstruct it to measure the error, and store its features.

    Args:
        image: [1, H, W, 3], 0..1.
        text: p_src, a description of the picture; in the paper the base prompt.
        sigmas: [S + 1] of the later sampler; `config.steps` is ignored. A flow's begin just below
            pure noise, see `NoisePath.highest_start`.
        progress: called after every step, first with the size of the stored features; may raise.

    Raises:
        ConfigError: the features do not fit where `config.keep` has them.
    """
    config = config or InversionConfig()
    if image.ndim != 4 or image.shape[0] != 1:
        raise ImageError(
            f"The template has the shape {list(image.shape)}; connect one picture, 1 x height x "
            "width x 3."
        )
    sigmas = checked_sigmas(sigmas).clamp_max(host.noise_path.highest_start)
    steps = len(sigmas) - 1
    blocks = blocks_of(host.sites, config)
    prompt, latent = host.encode_prompt(text), host.encode_image(image[..., :3])
    size = (latent.shape[-2], latent.shape[-1])
    n_stored = 0 if config.keep is Keep.NOTHING else kept_steps(config, steps)
    check_room(config, feature_cost(host, blocks, size, config, steps), host.device)
    message = describe_size(host, blocks, size, config, steps)
    total = 2 * steps + n_stored
    progress(0, total, message)
    trajectory = invert(
        host, latent, prompt, sigmas, refinements=config.refinements,
        progress=_from(progress, 0, total),
    )  # fmt: skip
    again = reconstruct(
        host, trajectory[:1], prompt, sigmas, progress=_from(progress, steps, total)
    )
    with torch.no_grad():
        reconstruction, seen = host.decode_latent(again)[0], host.decode_latent(latent)[0]
    template = Template(
        image=image[0, ..., :3].float().cpu(),
        prompt=prompt,
        sigmas=sigmas,
        trajectory=trajectory.cpu(),
        timesteps=tuple(host.noise_path.timestep_at(s) for s in sigmas[:-1].tolist()),
        blocks=blocks,
        features=(),
        reconstruction=reconstruction,
        psnr=psnr(reconstruction, seen),
        base=host.fingerprint,
        model=model_digest(host),
        is_flat=not host.sites.resnets,
        is_joint=host.sites.joint is not None,
    )
    return with_features(host, template, config, n_stored, _from(progress, 2 * steps, total))


def _from(progress: Progress, offset: int, whole: int) -> Progress:
    """A part of a longer work, as its own."""

    def report(step: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
        progress(offset + step, whole, message, preview)

    return report
