"""Pairs for CLiC's similarity: a detail of one object, and another object that is to carry it.

    PAIRS/carving/pair.json
        {"source": {"image": "bench.jpg", "mask": "carving.png", "object": "bench"},
         "target": {"image": "chair.jpg", "mask": "back.png", "object": "chair"}}
    PAIRS/carving/bench.jpg ...

`mask` is white where the detail is, or belongs; `object` is the word for what carries it. Files are
named relative to the folder; pairs may share pictures ("../bench.jpg"), and a source that two of
them have is learned once.

The official run (Mehdi0xC/clic, reproduce.sh) learns a detail once, then draws it onto the target
with five seeds at t_start 15 and 20, guided in the first 30 of 50 steps, guidance 7.5, DDIM's eta
1. Ours blends to the last step, as the paper writes it: the code leaves the last four free, and
then nothing outside of the mask is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from conceptloom.cli.mask_reader import read_mask
from conceptloom.cli.picture_reader import read_image
from conceptloom.errors import InputError
from conceptloom.methods.clic import OFFICIAL, OFFICIAL_LOOP, CLiCConfig
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.scenes.scene import ConceptScene, make_scene, resized_scene
from conceptloom.training.recipe import LoopConfig

from .common import document_of, each_folder
from .protocol import with_article

PAIR_FILE = "pair.json"
CONCEPT = "my-detail"  # the handle of every detail
INITIAL_WORD = "ktn"  # that it starts from, a rare token (learning.py:578)


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A picture with the place of a detail.

    Attributes:
        scene: the picture, and its mask as the one of <CONCEPT>.
        word: for the object: "chair".
    """

    scene: ConceptScene
    word: str

    @property
    def image(self) -> Tensor:
        """[H, W, 3], 0..1."""
        return self.scene.images[0].image

    @property
    def mask(self) -> Tensor:
        """[H, W], 0..1."""
        return self.scene.images[0].masks[CONCEPT]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Where a detail is learned, and where it is drawn."""

    source: Side
    target: Side

    def at(self, resolution_px: int, multiple_px: int) -> Pair:
        """Both at the size that is learned and drawn at, see `resized_scene`."""
        source, target = (
            replace(side, scene=resized_scene(side.scene, resolution_px, multiple_px))
            for side in (self.source, self.target)
        )
        return Pair(source, target)


def pairs_of(folder: Path) -> dict[str, Pair]:
    """Name of a folder -> its pair.

    Raises:
        InputError: there is none, or one is not as the top of this file shows it.
    """
    return each_folder(folder, PAIR_FILE, pair_of, "similarity/pairs.py")


def pair_of(file: Path) -> Pair:
    """The pair of a JSON file.

    Raises:
        InputError: it is not as the top of this file shows it, a picture cannot be read, or a mask
            is empty or of another aspect than its picture.
    """
    document = document_of(file)
    try:
        source, target = (_side(document[name], file.parent) for name in ("source", "target"))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not as the top of similarity/pairs.py shows a pair: {error!r}."
        ) from error
    return Pair(source, target)


def _side(entry: Mapping[str, Any], folder: Path) -> Side:
    image, mask = read_image(folder / entry["image"]), read_mask(folder / entry["mask"])
    word = entry["object"].strip()
    if not word:
        raise InputError(f"{folder}: {entry['image']} needs a word for its object under 'object'.")
    return Side(make_scene([image], {CONCEPT: [mask]}, {CONCEPT: INITIAL_WORD}), word)


CLIC, BASE = "CLiC", "base model"
REBUILT, UNTOUCHED = "target through the VAE", "untouched target"
PASTED = ", pasted"
FEATHER_PX = 4  # of the seam where pictures are pasted, as `conceptloom transfer` has it
PAPER_TIME = "The paper (Sec. 4) tells 3 minutes for 500 steps on an RTX 3090."


@dataclass(frozen=True, kw_only=True, slots=True)
class DetailSimilarityBudget:
    """How much a run learns and draws."""

    config: CLiCConfig
    loop: LoopConfig = OFFICIAL_LOOP
    starts: tuple[int, ...] = (15, 20)  # t_start of reproduce.sh
    pictures: int = 5  # seeds of each
    sampling_steps: int = 50
    cfg: float = 7.5
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)  # the authors' 0.01
    # Swept: the pull on the words, and how much of the target is kept.
    etas: tuple[float, ...] = (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05)
    sweep_starts: tuple[int, ...] = (5, 10, 15, 20, 25, 30, 35)
    sweep_pictures: int = 2


def full_budget(resolution_px: int, seed: int) -> DetailSimilarityBudget:
    """The official numbers."""
    return DetailSimilarityBudget(config=replace(OFFICIAL, resolution_px=resolution_px, seed=seed))


def quick_budget(resolution_px: int, seed: int) -> DetailSimilarityBudget:
    """Enough to see that everything runs; the figures mean nothing."""
    full = full_budget(resolution_px, seed)
    phase = replace(full.config.weight_phase, steps=2)
    return replace(
        full,
        config=replace(full.config, weight_phase=phase, views=2),
        starts=(1, 2),
        pictures=1,
        sampling_steps=3,
        guidance=GuidanceConfig(steps=2),
        etas=(-0.01, 0.01),
        sweep_starts=(1, 3),
        sweep_pictures=1,
    )


def variant(what: str, start: int) -> str:
    """Name of a row: what draws, and the t_start of the official code."""
    return f"{what}, t_start {start}"


def rows_of(budget: DetailSimilarityBudget) -> Iterator[str]:
    """The rows of the table."""
    for start in budget.starts:
        yield variant(CLIC, start)
        yield variant(CLIC, start) + PASTED
        yield variant(BASE, start)
    yield from (REBUILT, UNTOUCHED)


def taught_config(budget: DetailSimilarityBudget, side: Side) -> CLiCConfig:
    """The settings with the object's own word in their prompts."""
    return replace(budget.config, object_word=side.word)


def edit_config(budget: DetailSimilarityBudget, start: int, eta: float | None = None) -> EditConfig:
    """How a target is drawn on.

    Args:
        start: t_start of the official code, whose steps with i < t_start begin anew from the noised
            picture: the last of these is denoised, so that one less is skipped.
        eta: of the guidance; None is the budget's.
    """
    guidance = budget.guidance if eta is None else replace(budget.guidance, eta=eta)
    return EditConfig(
        steps=budget.sampling_steps,
        cfg=budget.cfg,
        blend=BlendConfig(start=start - 1),
        guidance=guidance,
        target_is_mask=False,  # transfer.py: ones everywhere
    )


def prompt_of(budget: DetailSimilarityBudget, side: Side) -> str:
    """What CLiC draws: "a chair with <my-detail> style"."""
    return taught_config(budget, side).prompt_of(CONCEPT)


def plain_of(side: Side) -> str:
    """What the base model draws, and CLIP is asked: "a chair"."""
    return with_article(side.word)
