"""Break-A-Scene as a recipe for the training loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...attention.maps import AttentionCapture, TokenQuery
from ...attention.site_selection import located_rows, sites_to_read
from ...host.ports import Host, Progress, Prompt, no_progress
from ...rng import sample_noise
from ...scenes.scene import ConceptScene
from ...training.losses import masked_loss
from ...training.phases import WEIGHTS
from ...training.recipe import Losses, Phase
from ...training.scene_recipe import SceneRecipe
from .config import BreakASceneConfig
from .dataset import SceneDataset, UnionSample, draw_samples
from .losses import attention_loss


class BreakAScene(SceneRecipe[BreakASceneConfig]):
    """Learns the concepts of a scene; pass it to `training.loop.run`.

    Args:
        host: the base model; it is not modified.
        scene: pictures, masks and words.
        config: the settings.
        progress: called after each encoded picture.

    Attributes:
        class_latents: [P, C, h, w] latents of `config.class_images` for prior preservation, of the
            scene's latent size; None disables it.
    """

    method = "break_a_scene"
    class_latents: Tensor | None = None
    _fixed_class_prompt: Prompt | None = None

    def __init__(
        self,
        host: Host,
        scene: ConceptScene,
        config: BreakASceneConfig,
        progress: Progress = no_progress,
    ) -> None:
        super().__init__(host, scene, config)
        self.sites = sites_to_read(host.sites, self.latent_size, config.attention_level)
        with torch.no_grad():
            self._dataset = SceneDataset(host, self.scene, self.sites[0].downsample, progress)

    def losses(self, phase: Phase, generator: torch.Generator) -> Losses:
        """The weighted loss terms of one batch: diffusion, attention and prior.

        While only handles train there is no prior term: the prompt of a class image has no handle,
        so its gradient would be exactly zero. (The official program computes it anyway.)
        """
        samples = draw_samples(self.scene, self.config, self._footprint.rows, generator)
        latent = self._dataset.latents(samples)
        noise, timesteps = sample_noise(self.host, latent, generator)
        prompts = self._encoded([s.prompt(self.config.prompt_prefix) for s in samples])
        class_latent = (
            self._sample_class_latents(len(samples), generator) if phase.name == WEIGHTS else None
        )
        if class_latent is not None:
            class_noise, class_timesteps = sample_noise(self.host, class_latent, generator)
            latent = torch.cat([latent, class_latent])
            noise = torch.cat([noise, class_noise])
            timesteps = torch.cat([timesteps, class_timesteps])
            prompts = [*prompts, *[self._class_prompt()] * len(samples)]
        capture = AttentionCapture(self.sites if self.config.attention_weight else ())
        path = self.host.noise_path
        noisy = path.add_noise(latent, noise, timesteps)
        predicted = self.host.predict(noisy, timesteps, prompts, [capture])
        target = path.target(latent, noise, timesteps)
        return self._terms(samples, prompts, predicted, target, timesteps, capture)

    def _terms(
        self,
        samples: Sequence[UnionSample],
        prompts: Sequence[Prompt],
        predicted: Tensor,
        target: Tensor,
        timesteps: Tensor,
        capture: AttentionCapture,
    ) -> dict[str, Tensor]:
        rows = len(samples)
        mask = self._dataset.unions(samples)
        if not self.config.masked_loss:
            mask = torch.ones_like(mask)
        terms = {"diffusion": masked_loss(predicted[:rows], target[:rows], mask)}
        if self.config.attention_weight:
            loss = self._attention(samples, prompts, timesteps, capture)
            terms["attention"] = self.config.attention_weight * loss
        if predicted.shape[0] > rows:
            everything = torch.ones_like(mask)
            loss = masked_loss(predicted[rows:], target[rows:], everything)
            terms["prior"] = self.config.prior_weight * loss
        return terms

    def _attention(
        self,
        samples: Sequence[UnionSample],
        prompts: Sequence[Prompt],
        timesteps: Tensor,
        capture: AttentionCapture,
    ) -> Tensor:
        """The attention loss of the rows whose noise level shows where words are; 0 without any."""
        rows = located_rows(self.host, timesteps[: len(samples)])
        if not rows:
            return torch.zeros((), device=timesteps.device)
        seen = [samples[row] for row in rows]
        maps = capture.maps(_queries(samples, prompts, rows))
        return attention_loss(maps, self._dataset.targets(seen), len(rows))

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every concept alone, and all of them together."""
        names = self.scene.names
        together = self.config.prompt_prefix + " and ".join(f"<{name}>" for name in names)
        alone = [f"{self.config.prompt_prefix}<{name}>" for name in names]
        return tuple(dict.fromkeys([*alone, together]))

    def _sample_class_latents(self, rows: int, generator: torch.Generator) -> Tensor | None:
        if self.class_latents is None or not self.config.prior_weight:
            return None
        chosen = torch.randint(len(self.class_latents), (rows,), generator=generator)
        return self.class_latents[chosen].to(self.host.device)

    def _class_prompt(self) -> Prompt:
        """Encoded once, unless the text encoder trains too."""
        if self._fixed_class_prompt is None:
            prompt = self.host.encode_prompt(self.config.class_images.prompt)
            if prompt.context.requires_grad:
                return prompt
            self._fixed_class_prompt = prompt
        return self._fixed_class_prompt


def _queries(
    samples: Sequence[UnionSample], prompts: Sequence[Prompt], rows: Sequence[int]
) -> list[TokenQuery]:
    return [
        TokenQuery(row, prompts[row].find_handle(name), len(prompts[row].tokens))
        for row in rows
        for name in samples[row].names
    ]
