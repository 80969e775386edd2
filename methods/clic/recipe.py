"""CLiC as a recipe for the training loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.maps import AttentionCapture, TokenQuery
from ...attention.site_selection import grid_at, located_rows, rising_sites
from ...attention.start_token import StartDetached
from ...host.ports import Host, Progress, Prompt, UNetEdit, no_progress
from ...rng import sample_noise
from ...scenes.scene import ConceptScene
from ...scenes.soft_masks import soft_mask
from ...training.losses import masked_loss
from ...training.recipe import Losses, Phase
from ...training.scene_recipe import SceneRecipe
from .config import CLiCConfig, Form
from .dataset import SceneViews, ViewSample
from .losses import area_loss, attention_loss, outside_weighted


class CLiC(SceneRecipe[CLiCConfig]):
    """Learns details in their context; pass it to `training.loop.run`.

    Args:
        host: the base model; it is not modified.
        scene: pictures, masks and words; every step learns one of its concepts.
        config: the settings.
        progress: called after each encoded picture.
    """

    method = "clic"

    def __init__(
        self,
        host: Host,
        scene: ConceptScene,
        config: CLiCConfig,
        progress: Progress = no_progress,
    ) -> None:
        super().__init__(host, scene, config)
        self.sites = rising_sites(host.sites) if config.attention_weight else []
        with torch.no_grad():
            self._views = SceneViews(host, self.scene, config, progress)

    @property
    def rows(self) -> int:
        """Rows of the largest forward pass."""
        return self._footprint.rows * (self._reads_whole + bool(self.config.roi_weight))

    @property
    def _reads_whole(self) -> bool:
        """Whether whole pictures go through the UNet, for l_context and l_att."""
        return bool(self.config.context_weight or self.config.attention_weight)

    def losses(self, phase: Phase, generator: torch.Generator) -> Losses:
        """The weighted loss terms of one batch: l_context, l_att and l_RoI.

        Pictures and regions go through the UNet in one batch, the pictures first, with the same
        noise and timesteps.
        """
        samples = [self._views.draw(generator) for _ in range(self._footprint.rows)]
        latent = self._views.latents(samples)
        noise, timesteps = sample_noise(self.host, latent, generator)
        path = self.host.noise_path
        noisy = path.add_noise(latent, noise, timesteps)
        inputs, texts = [], []
        if self._reads_whole:
            inputs.append(noisy)
            texts += [sample.prompt for sample in samples]
        if self.config.roi_weight:
            inputs.append(self._noisy_regions(samples, noisy, noise, timesteps))
            texts += [sample.roi_prompt for sample in samples]
        prompts = self._encoded(texts)
        capture = AttentionCapture(self.sites)
        predicted = self.host.predict(
            torch.cat(inputs), timesteps.repeat(len(inputs)), prompts, self._edits(capture)
        )
        parts, config = predicted.split(len(samples)), self.config
        terms: dict[str, Tensor] = {}
        if config.context_weight:
            target = path.target(latent, noise, timesteps)
            terms["context"] = self._context_term(samples, parts[0], target)
        if config.attention_weight:
            attention = self._attention_term(samples, prompts, timesteps, capture, predicted)
            terms["attention"] = config.attention_weight * attention
        if config.roi_weight:
            target = path.target(self._clean_regions(samples, latent), noise, timesteps)
            terms["roi"] = self._roi_term(samples, parts[-1], target)
        return terms

    def _edits(self, capture: AttentionCapture) -> list[UNetEdit]:
        return [StartDetached(), capture] if self.config.detach_start else [capture]

    def _context_term(
        self, samples: Sequence[ViewSample], predicted: Tensor, target: Tensor
    ) -> Tensor:
        """l_context = || M_soft (eps_hat - eps) ||^2, M_soft = a + (1 - a) M."""
        config = self.config
        mask, valid = self._views.masks(samples), self._views.valid(samples)
        if config.context_form is Form.PAPER:
            soft = soft_mask(mask, config.background_weight) * valid
            loss = masked_loss(predicted, target, soft)
        else:
            outside = outside_weighted(mask, config.background_weight) * valid
            loss = area_loss(predicted, target, outside)
        return config.context_weight * loss

    def _attention_term(
        self, samples: Sequence[ViewSample], prompts: Sequence[Prompt], timesteps: Tensor,
        capture: AttentionCapture, predicted: Tensor,
    ) -> Tensor:  # fmt: skip
        """l_att = || CA(v*, x_t) - Resize(M) ||^2 of the rows whose noise level shows where words
        are; 0 without any."""
        rows = located_rows(self.host, timesteps)
        if not rows:
            return 0 * predicted.sum()  # a loss all the same, where it is the only one
        queries = [
            TokenQuery(row, prompts[row].find_handle(samples[row].name), len(prompts[row].tokens))
            for row in rows
        ]
        grid = grid_at(self.config.attention_level, self.latent_size)
        maps = capture.maps(queries, grid)
        masks = self._views.masks([samples[row] for row in rows])
        if masks.shape[-2:] != grid:
            masks = F.adaptive_avg_pool2d(masks, grid)
        return attention_loss(maps, masks[:, 0])

    def _noisy_regions(
        self, samples: Sequence[ViewSample], noisy: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """M x_t as in the paper, or the region on blank pixels with the same noise (code)."""
        if self.config.roi_form is Form.PAPER:
            return self._views.masks(samples) * noisy
        return self.host.noise_path.add_noise(self._views.regions(samples), noise, timesteps)

    def _clean_regions(self, samples: Sequence[ViewSample], latent: Tensor) -> Tensor:
        """[B, C, h, w] clean latents of `_noisy_regions`."""
        if self.config.roi_form is Form.PAPER:
            return self._views.masks(samples) * latent
        return self._views.regions(samples)

    def _roi_term(self, samples: Sequence[ViewSample], predicted: Tensor, target: Tensor) -> Tensor:
        """l_RoI = || eps_hat(M x_t, c*, t) - eps ||^2.

        The target is that of M x_0 with the noise of the whole picture, for models that predict v
        or a flow too, so that the word does not learn the surroundings of its region. Outside the
        mask the noise is not in M x_t, so it cannot be predicted; in cells that the mask cuts,
        only a part of it can.
        """
        if self.config.roi_form is Form.PAPER:
            loss = masked_loss(predicted, target, torch.ones_like(target[:, :1]))
        else:
            loss = area_loss(predicted, target, self._views.masks(samples))
        return self.config.roi_weight * loss

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts that train: the region alone, then in its context, for every concept."""
        names = self.scene.names
        alone = [self.config.roi_prompts_of(name)[0] for name in names]
        return tuple(dict.fromkeys([*alone, *map(self.config.prompt_of, names)]))
