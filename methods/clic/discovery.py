"""Concept discovery: what several pictures share becomes a word, and the word finds its places.

Source: CLiC, paper Sec. 3.3 (no script). A token w* and cross-attention learn by the plain
diffusion loss on several pictures of objects that share a detail ("An OBJECT with w* style"); then
the attention of w* is the source mask of each picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...concepts.concept import Concept, weight_edits
from ...errors import ImageError
from ...host.ports import Host, Progress, no_progress
from ...scenes.scene import make_scene
from ...training.loop import run
from ...training.recipe import Events
from ...training.runner import loop_for, state_folder
from .config import PAPER_LOOP, CLiCConfig, as_custom_diffusion
from .matching import Match, ReadConfig, read_matches
from .recipe import CLiC

FEWEST = 2  # of one picture everything is shared
DISCOVERY = as_custom_diffusion(CLiCConfig(prompt="a {object} with {concept} style"))


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscoveryConfig:
    """How the shared concept learns and is read."""

    learning: CLiCConfig = field(default_factory=lambda: DISCOVERY)
    reading: ReadConfig = field(default_factory=ReadConfig)


@dataclass(frozen=True, slots=True)
class Discovery:
    """The shared content of several pictures."""

    concept: Concept
    matches: Sequence[Match]  # where it is in each of them


def discover(
    host: Host,
    images: Sequence[Tensor],
    name: str,
    config: DiscoveryConfig,
    *,
    word: str = "",
    folder: Path | None = None,
    progress: Progress = no_progress,
) -> Discovery:
    """Learn the shared content of pictures and locate it in each of them.

    Args:
        images: two or more pictures [H, W, 3] of one size, 0..1.
        name: handle of the concept.
        word: what its vector starts from; "" draws one.
        folder: where states go, in a subfolder for exactly these inputs, so that the same
            call resumes. None saves nothing.

    Raises:
        ImageError: there are too few pictures, or of different sizes.
    """
    if len(images) < FEWEST:
        raise ImageError(
            f"{len(images)} picture came; Concept Discovery needs at least {FEWEST}. Add "
            "pictures, or mark the detail with a mask and learn it with CLiC."
        )
    if len({tuple(image.shape) for image in images}) > 1:
        raise ImageError("The pictures differ in size; resize them to one size first.")
    everywhere = [torch.ones(image.shape[:2]) for image in images]
    scene = make_scene(list(images), {name: everywhere}, {name: word})
    learning = config.learning
    recipe = CLiC(host, scene, learning, progress)
    loop = loop_for(host, PAPER_LOOP, seed=learning.seed, accumulation=learning.accumulation)
    state_dir = state_folder(folder, host, recipe.scene, loop, [asdict(learning), "clic discovery"])
    state = run(recipe, loop, Events(progress), state_dir)
    if state_dir:
        state_dir.finish(keep=True)
    concept = recipe.concept(state.history, images[0].detach().float().cpu())
    prompt_text = learning.prompt_of(name)
    with host.edited(weight_edits(concept), trainable=False), torch.no_grad():
        vectors = {
            handle: {e: rows.to(host.device) for e, rows in by_encoder.items()}
            for handle, by_encoder in concept.handles.items()
        }
        prompt = host.encode_prompt(prompt_text, vectors)
        matches = read_matches(host, images, prompt, name, config.reading, progress)
    return Discovery(concept, matches)
