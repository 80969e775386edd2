"""Settings, recipe, and what the method offers, in a single file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

import torch

from ...host.ports import Host, Progress, no_progress
from ...rng import randint, sample_noise
from ...scenes.scene import ConceptScene
from ...training.adapters import Scope
from ...training.common_settings import (
    accumulation_setting,
    batch_size_setting,
    checkpointing_setting,
    resolution_setting,
    seed_setting,
)
from ...training.losses import masked_loss
from ...training.method_spec import MethodPreset, MethodSpec, Takes
from ...training.phases import TokenPhase, WeightPhase
from ...training.previews import PreviewConfig, Previews
from ...training.recipe import LoopConfig, Losses, Phase
from ...training.results import SaveConcept
from ...training.runner import TrainingResult, loop_for, run_training, state_folder
from ...training.scene_recipe import SceneRecipe
from ...training.setting import setting

NAME = "textual_inversion"


class Medium(str, Enum):
    """What a picture of the concept is called."""

    PHOTO = "photo"
    PAINTING = "painting"


@dataclass(frozen=True, kw_only=True, slots=True)
class TextualInversionConfig:
    """The whole recipe."""

    token_phase: TokenPhase = field(default_factory=lambda: TokenPhase(steps=3000))
    weight_phase: WeightPhase = field(
        default_factory=lambda: WeightPhase(steps=0, scope=Scope.HANDLES)
    )
    medium: Medium = setting(
        Medium.PHOTO,
        help="What pictures of the concept are called: a photo, or a painting for styles.",
    )
    gain: float = setting(
        1.0,
        help="Factor of the loss. Low is careful, high is quick.",
        minimum=0.1,
        maximum=10.0,
        step=0.1,
        is_advanced=True,
    )
    resolution_px: int = resolution_setting()
    checkpointing: bool = checkpointing_setting()
    batch_size: int = batch_size_setting()
    accumulation: int = accumulation_setting()
    seed: int = seed_setting()


class TextualInversion(SceneRecipe[TextualInversionConfig]):
    """Only the handle learns, from whole pictures."""

    method = NAME

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(f"a {self.config.medium.value} of <{name}>" for name in self.scene.names)

    def losses(self, phase: Phase, generator: torch.Generator) -> Losses:
        rows = range(self._footprint.rows)
        chosen = [randint(len(self.scene.images), generator) for _ in rows]
        with torch.no_grad():
            images = [self.scene.images[number].image[None] for number in chosen]
            latent = torch.cat([self.host.encode_image(image) for image in images])
        noise, timesteps = sample_noise(self.host, latent, generator)
        prompts = self._encoded([self.prompts[randint(len(self.prompts), generator)] for _ in rows])
        path = self.host.noise_path
        predicted = self.host.predict(
            path.add_noise(latent, noise, timesteps), timesteps, prompts, []
        )
        target = path.target(latent, noise, timesteps)
        loss = masked_loss(predicted, target, torch.ones_like(latent[:, :1]))
        return {"diffusion": self.config.gain * loss}


def learn(
    host: Host,
    scene: ConceptScene,
    config: TextualInversionConfig,
    *,
    loop: LoopConfig | None = None,
    previews: PreviewConfig | None = None,
    folder: Path | None = None,
    save: SaveConcept | None = None,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Learn the concepts of a scene."""
    loop = loop_for(host, loop, seed=config.seed, accumulation=config.accumulation)
    recipe = TextualInversion(host, scene, config)
    shown = Previews(host, recipe.scene, recipe.handles.vectors, previews or PreviewConfig())
    kept = state_folder(folder, host, recipe.scene, loop, [asdict(config), NAME])
    return run_training(recipe, loop, shown, kept, progress, save)


SPEC = MethodSpec(
    name=NAME,
    title="Textual Inversion",
    summary="learns the word alone",
    takes=Takes.SCENE,
    learn=learn,
    presets=(
        MethodPreset(
            title="Textual Inversion",
            option="textual-inversion",
            summary="the name and nothing else",
            config=TextualInversionConfig(),
        ),
    ),
)
