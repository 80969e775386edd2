"""Step 1: concepts for the bank, one by one, in K and V of cross-attention alone.

Custom Diffusion's loss (Kumari et al. 2023, arXiv 2212.04488; official code at 7c19c9a) with
Concept Weaver's strong augmentation of size and position (training/placement.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...host.ports import Host, Progress, no_progress
from ...training.adapters import Scope, make_adapters
from ...training.checks import require_fraction, require_positive, require_whole
from ...training.concept import Concept
from ...training.draws import below, drawn_noise
from ...training.handles import HandleParameters, generator_for, initial_handles
from ...training.loop import run, summary
from ...training.placement import SMALLEST, placed_smaller
from ...training.recipe import Events, Footprint, LoopConfig, Losses, Phase, StepDown
from ...training.scene import ConceptScene


@dataclass(frozen=True, kw_only=True, slots=True)
class BankConfig:
    """How a concept of the bank is learned."""

    steps: int = 500  # optimizer steps (paper, implementation details)
    learning_rate: float = 1e-5  # of handles, K and V (the same place)
    batch_size: int = 1  # pictures a forward pass
    smallest: float = SMALLEST  # of the random scales; 1 leaves pictures as they are
    views: int = 16  # copies of each picture, placed and encoded before the first step; ours
    prompt: str = "photo of a {handle} {word}"  # TweedieMix's; {word} may be empty
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "views"):
            require_whole(name, getattr(self, name), least=1)
        require_positive("learning_rate", self.learning_rate)
        require_fraction("smallest", self.smallest)


class BankRecipe:
    """Learns the concepts of a scene; give it to `training.loop.run`.

    Args:
        host: the base model; it is given back as it was.
        scene: pictures and words; masks say which concepts a picture shows.
    """

    def __init__(self, host: Host, scene: ConceptScene, config: BankConfig) -> None:
        self.host, self.scene, self.config = host, scene, config
        self.handles = HandleParameters(initial_handles(host, scene.words, seed=config.seed))
        self.adapters = make_adapters(host, Scope.CROSS_ATTENTION_KV, seed=config.seed)
        self._footprint = Footprint(config.batch_size, checkpointing=False)
        with torch.no_grad():
            self._views = [self._encoded(number) for number in range(len(scene.images))]

    def _encoded(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """Latents [C, h, w] and where they count [1, h, w], for every view of a picture."""
        picture = self.scene.images[number]
        draw = generator_for(self.config.seed, f"views of picture {number}")
        found: list[tuple[Tensor, Tensor]] = []
        for _ in range(self.config.views):
            placed = placed_smaller(picture.image, {}, draw, self.config.smallest)
            latent = self.host.encode_image(placed.image[None])[0]
            found.append((latent, valid_latents(placed.valid, latent).to(latent)))
        return found

    def prompt_of(self, name: str) -> str:
        """The prompt that teaches a concept."""
        word = self.scene.words.get(name, "")
        return self.config.prompt.format(handle=f"<{name}>", word=word).strip()

    def phases(self) -> Sequence[Phase]:
        every = [*self.handles.parameters(), *self.adapters.parameters()]
        return [Phase("handles + K/V", self.config.steps, self.config.learning_rate, every)]

    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        return {**self.handles.named(), **self.adapters.named()}

    @contextmanager
    def computing(self, phase: Phase) -> Iterator[None]:
        edits, checkpointing = self.adapters.edits(), self._footprint.checkpointing
        with self.host.edited(edits, trainable=True, checkpointing=checkpointing):
            yield

    def losses(self, phase: Phase, draw: torch.Generator) -> Losses:
        """The error of the predicted noise where the picture lies."""
        latents, valid, texts = [], [], []
        for _ in range(self._footprint.rows):
            number = below(len(self._views), draw)
            latent, where = self._views[number][below(self.config.views, draw)]
            names = list(self.scene.images[number].masks)
            latents.append(latent)
            valid.append(where)
            texts.append(self.prompt_of(names[below(len(names), draw)]))
        latent, mask = torch.stack(latents), torch.stack(valid)
        noise, timesteps = drawn_noise(self.host, latent, draw)
        vectors = self.handles.vectors()
        prompts = [self.host.encode_prompt(text, vectors) for text in texts]
        noisy = self.host.schedule.add_noise(latent, noise, timesteps)
        predicted = self.host.predict(noisy, timesteps, prompts)
        weight = self.host.schedule.native_weight(timesteps)
        return {"diffusion": valid_noise_loss(predicted, noise, mask, weight)}

    def step_down(self) -> StepDown | None:
        return self._footprint.step_down()

    def concept(self, history: Sequence[Mapping[str, float]]) -> Concept:
        """What was learned, ready for the bank."""
        return Concept(
            handles=self.handles.to_concept_handles(),
            weights=self.adapters.to_concept_weights(),
            base=self.host.fingerprint,
            method="concept_weaver",
            recipe=asdict(self.config),
            seeds={"seed": self.config.seed},
            prompts=tuple(self.prompt_of(name) for name in self.scene.names),
            words=dict(self.scene.words),
            history=summary(history),
            thumbnail=self.scene.images[0].image.cpu(),
        )


def learn_for_bank(
    host: Host,
    scene: ConceptScene,
    config: BankConfig | None = None,
    *,
    progress: Progress = no_progress,
) -> Concept:
    """Learn the concepts of a scene in K and V, for the bank."""
    config = config or BankConfig()
    recipe = BankRecipe(host, scene, config)
    loop = LoopConfig(seed=config.seed, save_every=0)
    return recipe.concept(run(recipe, loop, Events(progress)).history)


def valid_latents(valid: Tensor, latent: Tensor) -> Tensor:
    """[1, h, w] 1 where a latent and all around it see only the picture, 0 on and at the canvas.

    The outermost ring goes, too (Custom Diffusion and TweedieMix shrink by one latent alike).
    """
    grid = latent.shape[-2], latent.shape[-1]
    whole = (F.adaptive_avg_pool2d(valid[None, None], grid) > 0.999).float()
    shrunk = -F.max_pool2d(F.pad(-whole, (1, 1, 1, 1)), 3, 1)
    return shrunk[0] if float(shrunk.max()) else whole[0]


def valid_noise_loss(predicted: Tensor, noise: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """Squared error over the area that counts, mean over the rows.

    Source: Custom Diffusion, diffusers code :985; there channels are summed and not averaged.

    Args:
        predicted, noise: [B, C, h, w].
        valid: [B, 1, h, w] 0 or 1.
        weight: [B] of every row.
    """
    error = (predicted - noise).square().mean(dim=1, keepdim=True) * valid
    return (weight * error.sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3)).clamp_min(1)).mean()
