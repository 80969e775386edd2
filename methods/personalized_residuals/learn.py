"""Train on pictures with one call, for nodes and command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ...attention.capture import read_attention
from ...host.ports import Host, Progress, no_progress
from ...scenes.scene import ConceptScene, SceneImage
from ...training.estimate import report_estimate
from ...training.previews import PreviewConfig, Previews
from ...training.recipe import LoopConfig
from ...training.results import SaveConcept
from ...training.runner import TrainingResult, loop_for, run_training, state_folder
from ...viz.overlays import attention_overlay
from .config import PersonalizedResidualsConfig
from .dataset import SubjectDataset, make_dataset
from .recipe import PersonalizedResiduals


class SubjectPreviews(Previews):
    """Previews of one concept without a mask, so its attention has no score."""

    def _attention_panel(
        self, picture: SceneImage, names: Sequence[str], progress: Progress
    ) -> Tensor:
        prompt = self.host.encode_prompt(self.prompts[0], self.vectors())
        words = [f"<{name}>" for name in names if prompt.find_handle(name)]
        if not words:  # a preview of one's own may show anything
            words = [f"<{name}>" for name in names]
            prompt = self.host.encode_prompt(self.looking(words), self.vectors())
        latent = self.host.encode_image(picture.image[None])
        attention = read_attention(
            self.host, latent, prompt, words, downsample=self.downsample, progress=progress
        )
        maps = {word[1:-1]: map for word, map in attention.items()}
        return attention_overlay(picture.image, maps, colours=self._colours)


def learn_residuals(
    host: Host,
    images: Sequence[Tensor],
    handle: str,
    class_word: str,
    config: PersonalizedResidualsConfig,
    *,
    captions: Sequence[str] = (),
    loop: LoopConfig | None = None,
    previews: PreviewConfig | None = None,
    folder: Path | None = None,
    save: SaveConcept | None = None,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Learn one concept with Personalized Residuals.

    Args:
        images: [H, W, 3] each, 0..1; one or many, see `make_dataset`.
        handle: V* of the paper; `<handle>` in prompts.
        class_word: macro class, for example "cat", one word or several.
        captions: one for each picture, or none.
        folder: where states, CSV and TensorBoard files go, in a subfolder for exactly
            these inputs, so that the same call resumes. None saves nothing.
        save: writes the concept file; called before anything is drawn.
        progress: called after every step; may raise to cancel.

    Raises:
        InputError, TrainingError: see `errors`; `folder` contains the state so far.
    """
    loop = loop_for(host, loop, seed=config.seed, accumulation=config.accumulation)
    subject = make_dataset(
        images,
        handle,
        class_word,
        captions,
        prompt=config.prompt,
        resolution_px=config.resolution_px,
        multiple_px=host.pixels_per_latent,
    )
    recipe = PersonalizedResiduals(host, subject, config, progress)
    scene = _as_scene(subject)
    settings = [asdict(config), subject.class_word, list(subject.captions)]
    state_dir = state_folder(folder, host, scene, loop, settings)
    preview = SubjectPreviews(
        host, scene, recipe.handles.vectors, _shown(subject, config, previews)
    )
    needs = report_estimate(recipe, config.batch_size, loop, preview, progress, folder=folder)
    return run_training(recipe, loop, preview, state_dir, progress, save, needs)


def _as_scene(subject: SubjectDataset) -> ConceptScene:
    """The pictures as a scene for previews and state folders, with masks of ones."""
    pictures = tuple(
        SceneImage(image, {subject.handle: torch.ones_like(image[..., 0])})
        for image in subject.images
    )
    return ConceptScene(pictures, {subject.handle: subject.class_word})


def _shown(
    subject: SubjectDataset, config: PersonalizedResidualsConfig, previews: PreviewConfig | None
) -> PreviewConfig:
    previews = previews or PreviewConfig()
    prompts = previews.prompts or (config.prompt.replace("{}", subject.phrase),)
    return replace(previews, prompts=prompts)
