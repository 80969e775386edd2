"""Step 1: concepts for the bank, one by one, in K and V of cross-attention alone.

Custom Diffusion's loss (Kumari et al. 2023, arXiv 2212.04488; official code at 7c19c9a) with
Concept Weaver's strong augmentation of size and position (scenes/augment.py). As there, start
tokens have no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.start_token import StartDetached
from ...concepts.handles import generator_for
from ...host.ports import Host, Progress, no_progress
from ...rng import bernoulli, randint, sample_noise
from ...scenes.augment import placed_smaller
from ...scenes.masks import erode
from ...scenes.scene import ConceptScene
from ...training.recipe import Losses, Phase
from ...training.scene_recipe import PictureEncoder, SceneRecipe
from .config import BankConfig


class BankRecipe(SceneRecipe[BankConfig]):
    """Learns the concepts of a scene; pass it to `training.loop.run`.

    Args:
        host: the base model; it is not modified.
        scene: pictures and words; masks say which concepts a picture shows.
        progress: called after each encoded picture.
    """

    method = "concept_weaver"

    def __init__(
        self,
        host: Host,
        scene: ConceptScene,
        config: BankConfig,
        progress: Progress = no_progress,
    ) -> None:
        super().__init__(host, scene, config)
        n_pictures = len(self.scene.images)
        encode = PictureEncoder(host, config.views * n_pictures, progress)
        with torch.no_grad():
            self._views = [self._views_of(number, encode) for number in range(n_pictures)]

    def _views_of(self, number: int, encode: PictureEncoder) -> list[tuple[Tensor, Tensor]]:
        """Latents [C, h, w] and where they count [1, h, w], for every view of a picture."""
        image, config = self.scene.images[number].image, self.config
        generator = generator_for(config.seed, f"views of picture {number}")
        views: list[tuple[Tensor, Tensor]] = []
        for _ in range(config.views):
            seen = image.flip(1) if bernoulli(config.flip, generator) else image
            placed = placed_smaller(seen, {}, generator, config.smallest)
            latent = encode(placed.image)
            views.append((latent, valid_latents(placed.valid, latent).to(latent)))
        return views

    @property
    def prompts(self) -> tuple[str, ...]:
        """Training prompts, one per concept."""
        return tuple(self._prompt_of(name) for name in self.scene.names)

    def _prompt_of(self, name: str) -> str:
        return self.config.prompt_of(name, self.scene.words.get(name, ""))

    def losses(self, phase: Phase, generator: torch.Generator) -> Losses:
        """The error of the prediction inside the picture's area."""
        latents, valid, texts = [], [], []
        for _ in range(self._footprint.rows):
            number = randint(len(self._views), generator)
            latent, where = self._views[number][randint(self.config.views, generator)]
            names = list(self.scene.images[number].masks)
            latents.append(latent)
            valid.append(where)
            texts.append(self._prompt_of(names[randint(len(names), generator)]))
        latent, mask = torch.stack(latents), torch.stack(valid)
        noise, timesteps = sample_noise(self.host, latent, generator)
        prompts = self._encoded(texts)
        path = self.host.noise_path
        noisy = path.add_noise(latent, noise, timesteps)
        predicted = self.host.predict(noisy, timesteps, prompts, [StartDetached()])
        target = path.target(latent, noise, timesteps)
        return {"diffusion": valid_loss(predicted, target, mask)}


def valid_latents(valid: Tensor, latent: Tensor) -> Tensor:
    """[1, h, w] 1 where a latent and all around it see only the picture, 0 on and at the canvas.

    The outermost ring goes, too (Custom Diffusion and TweedieMix shrink by one latent alike).
    """
    grid = latent.shape[-2], latent.shape[-1]
    whole = (F.adaptive_avg_pool2d(valid[None, None], grid) > 0.999).float()
    shrunk = erode(whole, 1, beyond=0)
    return shrunk[0] if float(shrunk.max()) else whole[0]


def valid_loss(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Squared error over the area that counts, mean over the rows.

    Source: Custom Diffusion, diffusers code :985; there channels are summed and not averaged.

    Args:
        predicted, target: [B, C, h, w].
        valid: [B, 1, h, w] 0 or 1.
    """
    error = (predicted - target).square().mean(dim=1, keepdim=True) * valid
    return (error.sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3)).clamp_min(1)).mean()
