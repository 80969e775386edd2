"""Break-A-Scene as a recipe for the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import Tensor, nn

from ...attention.levels import sites_to_read
from ...attention.maps import AttentionCapture, TokenQuery
from ...host.ports import Host, Prompt, latent_size
from ...training.adapters import Scope, make_adapters
from ...training.concept import Concept
from ...training.draws import drawn_noise
from ...training.handles import HandleParameters, initial_handles
from ...training.loop import summary
from ...training.losses import masked_noise_loss
from ...training.phases import WEIGHTS, two_phases
from ...training.recipe import Footprint, Losses, Phase, StepDown
from ...training.scene import ConceptScene, resized_scene
from .config import BreakASceneConfig
from .losses import attention_loss
from .material import SceneMaterial
from .sampling import Sample, draw_samples


class BreakAScene:
    """Learns the concepts of a scene; give it to `training.loop.run`.

    Args:
        host: the base model; it is given back as it was.
        scene: pictures, masks and words.
        config: the settings.

    Attributes:
        class_latents: [P, C, h, w] latents of `config.prior_prompt` for prior preservation, of
            the scene's latent size; None does without.
    """

    class_latents: Tensor | None = None
    _fixed_class_prompt: Prompt | None = None

    def __init__(self, host: Host, scene: ConceptScene, config: BreakASceneConfig) -> None:
        self.host, self.config = host, config
        self.scene = resized_scene(scene, config.resolution_px, host.pixels_per_latent)
        self.handles = HandleParameters(initial_handles(host, scene.words, seed=config.seed))
        phase = config.weight_phase
        scope = phase.scope if phase.steps else Scope.HANDLES
        self.adapters = make_adapters(host, scope, rank=phase.rank, seed=config.seed)
        self.sites = sites_to_read(host.sites, self.latent_size, config.attention_level)
        self._footprint = Footprint(config.batch_size, config.checkpointing)
        with torch.no_grad():
            self._material = SceneMaterial(host, self.scene, self.sites[0].level)

    @property
    def size_px(self) -> tuple[int, int]:
        """(H, W) at which the scene is learned."""
        height, width = self.scene.images[0].image.shape[:2]
        return height, width

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of its latents."""
        return latent_size(self.host, self.size_px)

    def phases(self) -> Sequence[Phase]:
        tokens, weights = self.config.token_phase, self.config.weight_phase
        return two_phases(tokens, weights, self.handles, self.adapters)

    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        return {**self.handles.named(), **self.adapters.named()}

    @contextmanager
    def computing(self, phase: Phase) -> Iterator[None]:
        edits = self.adapters.edits() if phase.name == WEIGHTS else {}
        with self.host.edited(edits, trainable=True, checkpointing=self._footprint.checkpointing):
            yield

    def losses(self, phase: Phase, draw: torch.Generator) -> Losses:
        """The weighted loss terms of one batch: diffusion, attention and prior.

        While only handles move there is no prior term: a class image's prompt holds no handle, so
        its gradient would be exactly zero. (The official program computes it all the same.)
        """
        samples = draw_samples(self.scene, self.config, self._footprint.rows, draw)
        latent = self._material.latents(samples)
        noise, timesteps = drawn_noise(self.host, latent, draw)
        prompts = self._prompts(samples)
        class_latent = (
            self._draw_class_latents(len(samples), draw) if phase.name == WEIGHTS else None
        )
        if class_latent is not None:
            class_noise, class_timesteps = drawn_noise(self.host, class_latent, draw)
            latent = torch.cat([latent, class_latent])
            noise = torch.cat([noise, class_noise])
            timesteps = torch.cat([timesteps, class_timesteps])
            prompts = [*prompts, *[self._class_prompt()] * len(samples)]
        capture = AttentionCapture(self.sites if self.config.attention_weight else ())
        noisy = self.host.schedule.add_noise(latent, noise, timesteps)
        predicted = self.host.predict(noisy, timesteps, prompts, [capture])
        return self._terms(samples, prompts, predicted, noise, timesteps, capture)

    def _terms(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Prompt],
        predicted: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        capture: AttentionCapture,
    ) -> dict[str, Tensor]:
        rows = len(samples)
        weight = self.host.schedule.native_weight(timesteps)
        mask = self._material.unions(samples)
        if not self.config.masked_loss:
            mask = torch.ones_like(mask)
        terms = {
            "diffusion": masked_noise_loss(predicted[:rows], noise[:rows], mask, weight[:rows])
        }
        if self.config.attention_weight:
            maps = capture.maps(_queries(samples, prompts))
            loss = attention_loss(maps, self._material.targets(samples), rows)
            terms["attention"] = self.config.attention_weight * loss
        if predicted.shape[0] > rows:
            everything = torch.ones_like(mask)
            loss = masked_noise_loss(predicted[rows:], noise[rows:], everything, weight[rows:])
            terms["prior"] = self.config.prior_weight * loss
        return terms

    def step_down(self) -> StepDown | None:
        return self._footprint.step_down()

    def concept(self, history: Sequence[Mapping[str, float]], thumbnail: Tensor | None) -> Concept:
        """What was learned, ready to be saved."""
        names = self.scene.names
        together = self.config.prompt_prefix + " and ".join(f"<{name}>" for name in names)
        alone = [f"{self.config.prompt_prefix}<{name}>" for name in names]
        return Concept(
            handles=self.handles.to_concept_handles(),
            weights=self.adapters.to_concept_weights(),
            base=self.host.fingerprint,
            method="break_a_scene",
            recipe=asdict(self.config),
            seeds={"seed": self.config.seed},
            prompts=tuple(dict.fromkeys([*alone, together])),
            words=dict(self.scene.words),
            history=summary(history),
            thumbnail=thumbnail,
        )

    def _prompts(self, samples: Sequence[Sample]) -> list[Prompt]:
        vectors = self.handles.vectors()
        texts = [sample.prompt(self.config.prompt_prefix) for sample in samples]
        encoded = {text: self.host.encode_prompt(text, vectors) for text in dict.fromkeys(texts)}
        return [encoded[text] for text in texts]

    def _draw_class_latents(self, rows: int, draw: torch.Generator) -> Tensor | None:
        if self.class_latents is None or not self.config.prior_weight:
            return None
        chosen = torch.randint(len(self.class_latents), (rows,), generator=draw)
        return self.class_latents[chosen].to(self.host.device)

    def _class_prompt(self) -> Prompt:
        """Encoded once, unless the text encoder learns too."""
        if self._fixed_class_prompt is None:
            prompt = self.host.encode_prompt(self.config.prior_prompt)
            if prompt.context.requires_grad:
                return prompt
            self._fixed_class_prompt = prompt
        return self._fixed_class_prompt


def _queries(samples: Sequence[Sample], prompts: Sequence[Prompt]) -> list[TokenQuery]:
    return [
        TokenQuery(row, prompts[row].find_handle(name), len(prompts[row].tokens))
        for row, sample in enumerate(samples)
        for name in sample.names
    ]
