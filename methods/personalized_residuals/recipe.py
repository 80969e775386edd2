"""Personalized Residuals as a recipe for the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import Tensor, nn

from ...concepts.concept import Concept
from ...concepts.handles import HandleParameters, initial_handles
from ...host.ports import Host, Progress, Prompt, latent_size, no_progress
from ...rng import bernoulli, randint, sample_noise
from ...training.adapters import Scope, make_adapters
from ...training.loop import summary
from ...training.losses import masked_loss
from ...training.recipe import Footprint, Losses, Phase, StepDown
from .config import PersonalizedResidualsConfig
from .dataset import SubjectDataset, SubjectLatents

METHOD, RESIDUALS = "personalized_residuals", "residuals"


class PersonalizedResiduals:
    """Learns A_i and B_i of every output projection; pass it to `training.loop.run`.

    Args:
        host: the base model; it is not modified.
        subject: pictures and captions at training size.
        config: the settings.
        progress: called after each encoded picture.
    """

    def __init__(
        self,
        host: Host,
        subject: SubjectDataset,
        config: PersonalizedResidualsConfig,
        progress: Progress = no_progress,
    ) -> None:
        self.host, self.subject, self.config = host, subject, config
        start = initial_handles(host, {subject.handle: config.rare_token}, seed=config.seed)
        self.handles = HandleParameters(start)
        self.adapters = make_adapters(
            host, Scope.PROJ_OUT, config.ratio, config.seed, start=config.start
        )
        self._footprint = Footprint(config.batch_size, config.checkpointing)
        self._encoded: dict[str, Prompt] = {}  # fixed captions, encoded once
        with torch.no_grad():
            self._latents = SubjectLatents(
                host, subject.images, mirrored=config.flip > 0, progress=progress
            )

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return latent_size(self.host, self.subject.images[0].shape[:2])

    def phases(self) -> Sequence[Phase]:
        handles = ()
        if self.config.train_handle:
            handles = ((list(self.handles.parameters()), self.config.handle_rate),)
        learning = list(self.adapters.parameters())
        return [Phase(RESIDUALS, self.config.steps, self.config.learning_rate, learning, handles)]

    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        handles = self.handles.named() if self.config.train_handle else {}
        return {**handles, **self.adapters.named()}

    @contextmanager
    def computing(self, phase: Phase) -> Iterator[None]:
        with self.host.edited(
            self.adapters.edits(), trainable=True, checkpointing=self._footprint.checkpointing
        ):
            yield

    def losses(self, phase: Phase, generator: torch.Generator) -> Losses:
        """L_LDM = |eps - eps_theta(z_t, t, tau(y))|^2 (paper, Sec. 3.1), and nothing else; the
        model's own target stands for eps.

        There is no prior preservation: without the residual the model is unchanged.
        """
        drawn = [
            (randint(len(self.subject.images), generator), bernoulli(self.config.flip, generator))
            for _ in range(self._footprint.rows)
        ]
        latent = self._latents[drawn]
        noise, timesteps = sample_noise(self.host, latent, generator)
        path = self.host.noise_path
        noisy = path.add_noise(latent, noise, timesteps)
        predicted = self.host.predict(noisy, timesteps, self._prompts([i for i, _ in drawn]))
        everywhere = torch.ones_like(latent[:, :1])
        target = path.target(latent, noise, timesteps)
        return {"diffusion": masked_loss(predicted, target, everywhere)}

    def step_down(self) -> StepDown | None:
        return self._footprint.step_down()

    def concept(self, history: Sequence[Mapping[str, float]], thumbnail: Tensor | None) -> Concept:
        """The learned concept, ready to be saved."""
        prompt = self.config.prompt.replace("{}", self.subject.phrase)
        return Concept(
            handles=self.handles.to_concept_handles(),
            weights=self.adapters.to_concept_weights(),
            base=self.host.fingerprint,
            method=METHOD,
            recipe={**asdict(self.config), "class_word": self.subject.class_word},
            seeds={"seed": self.config.seed},
            prompts=(prompt,),
            words={self.subject.handle: self.subject.class_word},
            history=summary(history),
            thumbnail=thumbnail,
        )

    def _prompts(self, images: Sequence[int]) -> list[Prompt]:
        texts = [self.subject.captions[image] for image in images]
        known = {} if self.config.train_handle else self._encoded
        with torch.set_grad_enabled(self.config.train_handle):
            for text in dict.fromkeys(texts):
                if text not in known:
                    known[text] = self.host.encode_prompt(text, self.handles.vectors())
        return [known[text] for text in texts]
