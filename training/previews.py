"""Previews during training: pictures with a fixed seed, and attention maps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attention.capture import READ_AT, read_attention
from ..attention.metrics import LocalisationScores, attention_scores
from ..host.ports import HandleVectors, Host, Progress, no_progress, part_of
from ..host.prompt_text import misspelt
from ..samplers.ddim import sample_ddim, seeded_noise
from ..scenes.scene import ConceptScene, SceneImage
from ..viz.colors import RGB, concept_colours
from ..viz.overlays import attention_overlay, sample_strip, stacked
from .common_settings import LARGEST_SEED, PREVIEWS
from .setting import check_settings, setting

log = logging.getLogger("conceptloom")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewConfig:
    """Settings of the previews."""

    prompts: tuple[str, ...] = setting(
        (),  # every handle alone, then all of them together
        name="preview_prompts",
        option="preview_prompt",
        help="Prompts of the previews, one per line. Empty: every concept alone, then all "
        "together.",
        is_multiline=True,
        is_advanced=True,
        panel=PREVIEWS,
    )
    steps: int = setting(  # of DDIM
        20,
        name="preview_steps",
        help="Sampling steps of a preview. Few are fast and rough.",
        minimum=1,
        maximum=200,
        is_advanced=True,
        panel=PREVIEWS,
    )
    cfg: float = setting(
        7.5,
        name="preview_cfg",
        help="Guidance scale of a preview. 1 disables guidance; high values oversaturate.",
        minimum=1.0,
        maximum=30.0,
        step=0.5,
        is_advanced=True,
        panel=PREVIEWS,
    )
    seed: int = setting(
        1,
        name="preview_seed",
        help="Seed of the previews' noise.",
        minimum=0,
        maximum=LARGEST_SEED,
        is_limit=False,
        is_widget=False,
        panel=PREVIEWS,
    )

    def __post_init__(self) -> None:
        check_settings(self)


def _photo_of(words: Sequence[str]) -> str:
    return "a photo of " + " and ".join(words)


@dataclass(slots=True)
class Previews:
    """Draws with the current state of the concepts.

    Attributes:
        vectors: returns the current handle vectors.
        downsample: factor of the attention maps shown; the one that the loss reads.
        looking: returns the prompt for reading the attention of words (`<mug>`).
        strips: rows of pictures drawn so far, one tensor [n, H, W, 3] per preview.
        scores: of every handle, from the newest overlay.
        progress: called after every forward pass; may raise to cancel.
    """

    host: Host
    scene: ConceptScene
    vectors: Callable[[], HandleVectors]
    config: PreviewConfig = field(default_factory=PreviewConfig)
    downsample: int = 0  # see `attention.site_selection.sites_to_read`
    looking: Callable[[Sequence[str]], str] = _photo_of
    strips: list[Tensor] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    scores: dict[str, LocalisationScores] = field(default_factory=dict)
    progress: Progress = no_progress
    last_step: int = -1  # of the newest strip

    def __post_init__(self) -> None:
        for text in self.config.prompts:
            for sentence in misspelt(text, self.vectors()):
                log.warning("A preview's prompt: %s", sentence)

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of a preview."""
        if self.config.prompts:
            return self.config.prompts
        alone = [f"a photo of <{name}>" for name in self.scene.names]
        together = _photo_of([f"<{name}>" for name in self.scene.names])
        return alone if len(alone) == 1 else [*alone, together]

    @property
    def _colours(self) -> dict[str, RGB]:
        return concept_colours(self.scene.names)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """[n, H, W, 3] one picture for each prompt, from the same noise every time."""
        height, width = self.scene.images[0].image.shape[:2]
        vectors = self.vectors()
        encoded = [self.host.encode_prompt(text, vectors) for text in self.prompts]
        negative = self.host.encode_prompt("")
        noise = seeded_noise(self.host, self.config.seed, len(encoded), (height, width))
        steps = self.config.steps + 1  # decoding is one more
        drawn: list[Tensor] = []
        for i, prompt in enumerate(encoded):
            report = part_of(self.progress, i * steps, len(encoded) * steps, "drawing previews")
            latent = sample_ddim(
                self.host,
                [prompt],
                negative,
                noise[i : i + 1],
                steps=self.config.steps,
                cfg=self.config.cfg,
                progress=report,
            )
            drawn.append(self.host.decode_latent(latent))
            report(steps, steps)
        return torch.cat(drawn)

    @property
    def passes(self) -> int:
        """Forward passes of one row for one preview, each picture's decoding counted as one."""
        rows = 1 if self.config.cfg == 1 else 2
        return len(self.prompts) * (self.config.steps * rows + 1)

    def last_samples(self, step: int) -> Tensor:
        """[n, H, W, 3] at the end; reuses a preview of the same step."""
        return self.strips[-1] if self.last_step == step else self.samples()

    def overlay(self) -> Tensor:
        """[H, W, 3] attention of every handle over its first picture; stores the scores."""
        shown, waiting = list[tuple[SceneImage, list[str]]](), set(self.scene.names)
        for picture in self.scene.images:
            if names := [name for name in picture.masks if name in waiting]:
                shown.append((picture, names))
                waiting -= set(names)
        panels, passes = list[Tensor](), len(READ_AT)
        for done, (picture, names) in enumerate(shown):
            message = "reading the attention of each word"
            report = part_of(self.progress, done * passes, len(shown) * passes, message)
            panels.append(self._attention_panel(picture, names, report))
            report(passes, passes)
        return stacked(panels)

    def _attention_panel(
        self, picture: SceneImage, names: Sequence[str], progress: Progress
    ) -> Tensor:
        words = [f"<{name}>" for name in names]
        prompt = self.host.encode_prompt(self.looking(words), self.vectors())
        latent = self.host.encode_image(picture.image[None])
        attention = read_attention(
            self.host, latent, prompt, words, downsample=self.downsample, progress=progress
        )
        maps = dict(zip(names, attention.values(), strict=True))
        masks = {name: picture.masks[name] for name in names}
        scores = {name: attention_scores(maps[name], masks[name]) for name in names}
        self.scores.update(scores)
        return attention_overlay(picture.image, maps, masks, scores, self._colours)

    def __call__(self, step: int) -> Tensor:
        """Draw and store the preview of a step; returns one picture of it."""
        drawn = self.samples()
        self.strips.append(drawn)
        self.last_step = step
        self.captions.append(f"step {step}")
        return sample_strip(list(drawn), list(self.prompts), self._colours)

    def timeline(self) -> Tensor | None:
        """[H, W, 3] every preview so far, one row each; None before the first."""
        if not self.strips:
            return None
        images = [image for strip in self.strips for image in strip]
        captions = [f"{when}: {p}" for when in self.captions for p in self.prompts]
        return sample_strip(images, captions, self._colours, len(self.prompts))
