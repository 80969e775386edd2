"""CLiC as a recipe for the training loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.levels import grid_at
from ...attention.maps import AttentionCapture, TokenQuery
from ...attention.start_token import StartDetached
from ...errors import ModelError
from ...host.ports import Host, Place, Prompt, UNetEdit
from ...scenes.scene import ConceptScene
from ...scenes.soft_masks import soft_mask
from ...training.draws import drawn_noise
from ...training.losses import masked_noise_loss
from ...training.recipe import Losses, Phase
from ...training.scene_recipe import SceneRecipe
from .config import CLiCConfig, Form
from .losses import area_noise_loss, attention_loss, outside_weighted
from .material import WHOLE, Sample, SceneMaterial


class CLiC(SceneRecipe[CLiCConfig]):
    """Learns details in their context; give it to `training.loop.run`.

    Args:
        host: the base model; it is given back as it was.
        scene: pictures, masks and words; every step learns one of its concepts.
        config: the settings.
    """

    method = "clic"

    def __init__(self, host: Host, scene: ConceptScene, config: CLiCConfig) -> None:
        super().__init__(host, scene, config)
        self.sites = [s for s in host.sites.transformers if s.place is Place.UP]
        if config.attention_weight and not self.sites:
            raise ModelError("The model has no cross-attention in its up blocks to read maps from.")
        with torch.no_grad():
            self._material = SceneMaterial(host, self.scene, config)

    @property
    def rows(self) -> int:
        """Rows of the largest forward pass."""
        return self._footprint.rows * (bool(self._reads_context) + bool(self.config.roi_weight))

    @property
    def _reads_context(self) -> float:
        return self.config.context_weight + self.config.attention_weight

    def losses(self, phase: Phase, draw: torch.Generator) -> Losses:
        """The weighted loss terms of one batch: l_context, l_att and l_RoI.

        Picture and region go through the UNet side by side, with the same noise and timestep.
        """
        samples = [self._material.draw(draw) for _ in range(self._footprint.rows)]
        latent = self._material.latents(samples)
        noise, timesteps = drawn_noise(self.host, latent, draw)
        noisy = self.host.schedule.add_noise(latent, noise, timesteps)
        inputs, texts = [], []
        if self._reads_context:
            inputs.append(noisy)
            texts += [sample.prompt for sample in samples]
        if self.config.roi_weight:
            inputs.append(self._noisy_regions(samples, noisy, noise, timesteps))
            texts += [sample.roi_prompt for sample in samples]
        prompts = self._encoded(texts)
        capture = AttentionCapture(self.sites if self.config.attention_weight else ())
        predicted = self.host.predict(
            torch.cat(inputs), timesteps.repeat(len(inputs)), prompts, self._edits(capture)
        )
        parts = list(predicted.split(len(samples)))
        terms: dict[str, Tensor] = {}
        weight = self.host.schedule.native_weight(timesteps)
        if self._reads_context:
            terms |= self._context_terms(samples, parts.pop(0), noise, weight)
            if self.config.attention_weight:
                terms["attention"] = self._attention_term(samples, prompts, capture)
        if parts:
            terms["roi"] = self._roi_term(samples, parts[0], noise, weight)
        return terms

    def _edits(self, capture: AttentionCapture) -> list[UNetEdit]:
        return [StartDetached(), capture] if self.config.detach_start else [capture]

    def _context_terms(
        self, samples: Sequence[Sample], predicted: Tensor, noise: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """l_context = || M_soft (eps_hat - eps) ||^2, M_soft = a + (1 - a) M."""
        config = self.config
        if not config.context_weight:
            return {}
        mask, valid = self._material.masks(samples), self._material.valid(samples)
        if config.context_form is Form.PAPER:
            soft = soft_mask(mask, config.background_weight) * valid
            loss = masked_noise_loss(predicted, noise, soft, weight)
        else:
            outside = outside_weighted(mask, config.background_weight) * valid
            loss = area_noise_loss(predicted, noise, outside, weight)
        return {"context": config.context_weight * loss}

    def _attention_term(
        self, samples: Sequence[Sample], prompts: Sequence[Prompt], capture: AttentionCapture
    ) -> Tensor:
        """l_att = || CA(v*, x_t) - Resize(M) ||^2."""
        queries = [
            TokenQuery(row, prompts[row].find_handle(sample.name), len(prompts[row].tokens))
            for row, sample in enumerate(samples)
        ]
        grid = grid_at(self.config.attention_level, self.latent_size)
        maps = capture.maps(queries, grid)
        masks = self._material.masks(samples)
        if masks.shape[-2:] != grid:
            masks = F.adaptive_avg_pool2d(masks, grid)
        return self.config.attention_weight * attention_loss(maps, masks[:, 0])

    def _noisy_regions(
        self, samples: Sequence[Sample], noisy: Tensor, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """M x_t of the paper, or blank pixels with the same noise of the code."""
        if self.config.roi_form is Form.PAPER:
            return self._material.masks(samples) * noisy
        return self.host.schedule.add_noise(self._material.regions(samples), noise, timesteps)

    def _roi_term(
        self, samples: Sequence[Sample], predicted: Tensor, noise: Tensor, weight: Tensor
    ) -> Tensor:
        """l_RoI = || eps_hat(M x_t, c*, t) - eps ||^2.

        Around the region M x_t holds no noise to be told, and in a cell that the mask cuts only a
        part of it, so the error there is as large as the noise. A model that predicts v has its own
        factor, 1 / alpha_bar, in whole cells of the region alone: with it, what nobody can know
        would be nearly all of the loss at high noise.
        """
        mask = self._material.masks(samples)
        if self.config.roi_form is Form.PAPER:
            whole = (mask > WHOLE).float()
            native = whole * weight[:, None, None, None] + (1 - whole)
            loss = masked_noise_loss(predicted, noise, native.sqrt())
        else:
            loss = area_noise_loss(predicted, noise, mask, weight)
        return self.config.roi_weight * loss

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts that train: the region alone, then in its context, for every concept."""
        names = self.scene.names
        alone = [self.config.roi_prompts_of(name)[0] for name in names]
        return tuple(dict.fromkeys([*alone, *map(self.config.prompt_of, names)]))
