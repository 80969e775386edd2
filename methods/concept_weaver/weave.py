"""Step 5: the template drawn again, each region by its concept, in one run of the sampler.

eps = omega eps_fuse(z_t; h_fuse, f_t) + (1 - omega) eps_base(z_t, p_neg; f_t)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...attention.fusion import RegionSource
from ...attention.injection import FeatureInjection, Features
from ...attention.region_edits import region_edits
from ...attention.regions import at_grid
from ...concepts.fingerprints import model_digest
from ...host.ports import Host, Progress, Prompt, no_progress
from ...samplers.sigmas import euler_step, guided_output_at, output_at
from .config import Mixing, WeaveConfig
from .features import computed_features, injection_of
from .regions import Regions, sources_of
from .template import Template, check_template


@dataclass(frozen=True, slots=True, eq=False)
class WeaveResult:
    """The result of a weave."""

    image: Tensor  # [1, H, W, 3], 0..1
    latent: Tensor  # [1, C, h, w] clean


@torch.no_grad()
def weave(
    host: Host,
    template: Template,
    regions: Regions,
    config: WeaveConfig | None = None,
    *,
    progress: Progress = no_progress,
) -> WeaveResult:
    """Draw the template with the concepts in their regions.

    Raises:
        ModelError, InputError: template, regions or concepts do not fit the model or each other.
    """
    config = config or WeaveConfig()
    check_template(template, host.fingerprint, model_digest(host), regions.size)
    sources = sources_of(host, regions)
    base, negative = host.encode_prompt(regions.sentence), host.encode_prompt(config.negative)
    injection = host_injection(host, template, config)
    if config.mixing is Mixing.FEATURES:
        edits = region_edits(host.sites, sources, regions.masks, config.suppression, injection)

        def predict(point: Tensor, sigma: float) -> Tensor:
            return guided_output_at(host, point, sigma, base, negative, config.cfg, edits)
    else:
        mixed = ScoreMixing(host, regions, sources, base, injection)

        def predict(point: Tensor, sigma: float) -> Tensor:
            fused = mixed(point, sigma)
            if config.cfg == 1:
                return fused
            unwanted = output_at(host, point, sigma, [negative], [injection], [False])
            return config.cfg * fused + (1 - config.cfg) * unwanted

    levels = template.sigmas.tolist()
    point = template.trajectory[:1].to(host.device)
    for k, sigma in enumerate(levels[:-1]):
        slope = host.noise_path.slope(point, predict(point, sigma), sigma)
        point = euler_step(point, slope, sigma, levels[k + 1])
        progress(k + 1, template.steps, "weaving")
    return WeaveResult(host.decode_latent(point), point)


def host_injection(host: Host, template: Template, config: WeaveConfig) -> FeatureInjection:
    """The template's features in every pass through a host."""

    def recompute(step: int, resnets: bool, attentions: bool) -> Features:
        return computed_features(host, template, step, resnets=resnets, attentions=attentions)

    return injection_of(
        template,
        recompute,
        resnet_until=config.resnet_until,
        attention_until=config.attention_until,
    )


class ScoreMixing:
    """The naive baseline: a whole pass for every concept, mixed in the predicted noise.

    eps_fuse = sum_i M_i eps_theta_i(z_t, p_+i) + M_bg eps_theta_bg(z_t, p_+bg), after composable
    diffusion (Liu et al. 2022, arXiv 2206.01714). N concepts cost N + 1 passes.
    """

    def __init__(
        self,
        host: Host,
        regions: Regions,
        sources: Sequence[RegionSource],
        base: Prompt,
        injection: FeatureInjection,
    ) -> None:
        everywhere = torch.ones(1, *regions.size)
        self._host, self._base = host, base
        self._masks = regions.masks
        # A concept's own model is the fuser with that concept alone, everywhere.
        self._models = [
            region_edits(host.sites, [source], everywhere, injection=injection)
            for source in sources
        ]

    def __call__(self, point: Tensor, sigma: float) -> Tensor:
        masks = at_grid(self._masks, (point.shape[-2], point.shape[-1])).to(point)
        total = torch.zeros_like(point)
        for mask, edits in zip(masks, self._models, strict=True):
            total = total + mask * output_at(self._host, point, sigma, [self._base], edits)
        return total
