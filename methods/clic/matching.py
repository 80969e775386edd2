"""RoI matching: where the place of a learned detail lies on other objects.

Source: CLiC, paper Sec. 3.3; official segmentation/seg_diff.py:87-132, io_utils.py:24-46. A second
word w*, started from the learned v*, learns by l_att alone where the detail sits ("a w* region of
an OBJECT"); nothing else learns. Then w* is read on the way of a target picture through denoising.

Differs from the official code, whose mode "seg" trains all cross-attention with w* and starts it
from a word of the vocabulary. Its learning rate belongs to those weights; ours is a token's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.maps import AttentionCapture, TokenQuery, normalised_min_max
from ...attention.site_selection import rising_sites
from ...checks import require_fraction
from ...concepts.concept import Change, Concept, Diff, weight_edits
from ...concepts.handles import HandleParameters
from ...errors import HandleError, ImageError
from ...host.ports import (
    HandleVectors,
    Host,
    Progress,
    Prompt,
    StopForward,
    no_progress,
    part_of,
)
from ...scenes.masks import open_mask
from ...scenes.scene import make_scene
from ...training.loop import run
from ...training.phases import TokenPhase, WeightPhase
from ...training.recipe import Events
from ...training.runner import loop_for, state_folder
from ...training.setting import check_settings, setting
from .config import PAPER_LOOP, CLiCConfig
from .recipe import CLiC

REGION = "region"  # handle of w*, known only while it is learned and read
ROI_MATCHING = CLiCConfig(
    token_phase=TokenPhase(steps=500, learning_rate=5e-4),  # steps: the paper; rate: ours
    weight_phase=WeightPhase(steps=0),
    context_weight=0.0,
    attention_weight=1.0,
    roi_weight=0.0,
    prompt="a {concept} region of a {object}",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadConfig:
    """How a map is read and cleaned (seg_diff.py, io_utils.py)."""

    steps: int = setting(  # noise levels, from noisy to clean
        50,
        name="read_steps",
        help="Number of noise levels to read each picture at. The authors use 50; 10 is faster.",
        minimum=1,
        maximum=1000,
        is_advanced=True,
    )
    faint: float = 0.75  # below this a map, stretched to 0..1, is dimmed
    dimmed: float = 0.9  # by this factor
    opening: float = 5 / 512  # side of the square that specks are opened with, of the picture's
    threshold: float = setting(
        100 / 255,
        help="Threshold of the heat map. Low gives large masks, high small ones.",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        rounding=0.001,
    )
    seed: int = 0  # of the noise that the picture is read through

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("faint", "dimmed", "opening"):
            require_fraction(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Match:
    """The region in one picture."""

    mask: Tensor  # [H, W], 0 or 1
    heat: Tensor  # [H, W], 0..1, before the threshold


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchConfig:
    """How w* learns and is read."""

    learning: CLiCConfig = field(default_factory=lambda: ROI_MATCHING)
    reading: ReadConfig = field(default_factory=ReadConfig)


def match_regions(
    host: Host,
    concept: Concept,
    source: Tensor,
    mask: Tensor,
    targets: Sequence[Tensor],
    config: MatchConfig,
    *,
    name: str = "",
    folder: Path | None = None,
    progress: Progress = no_progress,
) -> list[Match]:
    """Locate a concept's detail in every target picture.

    The concept's weights are in place while w* learns and is read, since v* was learned with them.

    Args:
        source: [H, W, 3] a picture that carries the detail, 0..1.
        mask: [H, W] the detail in it.
        targets: [H, W, 3] pictures of objects of the same kind.
        name: handle of the concept; optional if there is only one.
        folder: where states of w* go, in a subfolder for exactly these inputs, so that the
            same call resumes. None saves nothing.

    Raises:
        HandleError: the concept has no such handle, or has several and none is named.
        MaskError, ImageError: see `errors`.
    """
    for target in targets:
        _check_picture(host, target)
    with host.edited(weight_edits(concept), trainable=False):
        word = learn_region(
            host, vectors_of(concept, name), source, mask, config, progress,
            folder=folder, weights=concept.weights,
        )  # fmt: skip
        prompt_text = config.learning.prompt_of(REGION)
        with torch.no_grad():
            prompt = host.encode_prompt(prompt_text, word)
        return read_matches(host, targets, prompt, REGION, config.reading, progress)


def vectors_of(concept: Concept, name: str) -> dict[str, Tensor]:
    """Encoder -> vectors of one handle of a concept."""
    bare = name.strip("<> ")
    if not bare and len(concept.handles) == 1:
        bare = concept.names[0]
    if bare not in concept.handles:
        known = ", ".join(f"<{n}>" for n in concept.handles)
        problem = (
            f"The concept has no handle <{bare}>" if bare else "The concept has several handles"
        )
        raise HandleError(f"{problem}; name one of {known}.")
    return dict(concept.handles[bare])


def learn_region(
    host: Host,
    start: dict[str, Tensor],
    source: Tensor,
    mask: Tensor,
    config: MatchConfig,
    progress: Progress = no_progress,
    *,
    folder: Path | None = None,
    weights: Mapping[str, Change] | None = None,
) -> HandleVectors:
    """w*, started from the vectors of v*; handle -> encoder -> [n, width].

    Args:
        folder: see `match_regions`.
        weights: of the concept, in place already; they tell one run from another.
    """
    scene = make_scene([source], {REGION: [mask]}, {REGION: config.learning.object_word})
    recipe = CLiC(host, scene, config.learning, progress)
    begun = {encoder: rows.to(host.device) for encoder, rows in start.items()}
    recipe.handles = HandleParameters({REGION: begun})
    learning = config.learning
    loop = loop_for(host, PAPER_LOOP, seed=learning.seed, accumulation=learning.accumulation)
    inputs = {f"start {encoder}": [rows] for encoder, rows in start.items()}
    key = [asdict(learning), "clic region"]
    state_dir = state_folder(
        folder, host, recipe.scene, loop, key, inputs | _tensors(weights or {})
    )
    run(recipe, loop, Events(progress), state_dir)
    if state_dir:
        state_dir.finish(keep=True)
    vectors = recipe.handles.to_concept_handles()
    return {REGION: {e: rows.to(host.device) for e, rows in vectors[REGION].items()}}


def _tensors(weights: Mapping[str, Change]) -> dict[str, Sequence[Tensor]]:
    return {
        name: [*c.tensors, *([] if isinstance(c, Diff) else [torch.tensor(c.scale)])]
        for name, c in weights.items()
    }


def read_matches(
    host: Host,
    images: Sequence[Tensor],
    prompt: Prompt,
    name: str,
    config: ReadConfig,
    progress: Progress,
) -> list[Match]:
    """The place of a handle in every picture [H, W, 3]; every pass is reported."""
    matches: list[Match] = []
    for number, image in enumerate(images):
        total = len(images) * config.steps
        report = part_of(progress, number * config.steps, total, "looking for the region")
        matches.append(clean(read_heat(host, image, prompt, name, config, report), image, config))
    return matches


@torch.no_grad()
def read_heat(
    host: Host,
    image: Tensor,
    prompt: Prompt,
    name: str,
    config: ReadConfig,
    progress: Progress = no_progress,
) -> Tensor:
    """Mean attention [h, w] of a handle over the noise levels of a picture, 0..1.

    Source: seg_diff.py:87-132. At every step the picture itself is noised (its `do_blending`).
    """
    sites = rising_sites(host.sites)
    latent = host.encode_image(image[None])
    size = (latent.shape[-2], latent.shape[-1])
    query = TokenQuery(0, prompt.find_handle(name), len(prompt.tokens))
    capture = AttentionCapture(sites, stop=True)
    generator = torch.Generator().manual_seed(config.seed)
    total = torch.zeros(size)
    for done, timestep in enumerate(host.noise_path.timesteps(config.steps)):
        progress(done, config.steps)
        at = torch.tensor([timestep], device=latent.device)
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        try:
            host.predict(host.noise_path.add_noise(latent, noise, at), at, [prompt], [capture])
        except StopForward:
            total = total + capture.maps([query], size)[0].cpu()
    return total / config.steps


def clean(heat: Tensor, image: Tensor, config: ReadConfig) -> Match:
    """A mask from a map: stretched to 0..1, faint parts dimmed, opened, cut.

    Args:
        heat: [h, w], any scale.
        image: [H, W, 3] the picture that it belongs to.
    """
    stretched = normalised_min_max(heat[None])
    stretched = torch.where(stretched < config.faint, stretched * config.dimmed, stretched)
    size = (image.shape[0], image.shape[1])
    grown = F.interpolate(stretched[None], size, mode="bicubic").clamp(0, 1)
    opened = open_mask(grown, round(config.opening * min(size)) // 2)
    return Match((opened[0, 0] >= config.threshold).float(), opened[0, 0])


def _check_picture(host: Host, image: Tensor) -> None:
    side = host.pixels_per_latent
    if image.ndim != 3 or image.shape[0] % side or image.shape[1] % side:
        raise ImageError(
            f"A target picture has the shape {list(image.shape)}; give [H, W, 3] with sides that "
            f"are multiples of {side}."
        )
