"""How CLiC learns and transfers on a real checkpoint, and what stands beside it.

The official run (Mehdi0xC/clic, reproduce.sh) learns a detail once, then draws it onto the target
with five seeds at t_start 15 and 20, guided in the first 30 of 50 steps, guidance 7.5, DDIM's eta
1. Ours blends to the last step, as the paper writes it: the code leaves the last four free, and
then nothing outside of the mask is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from similarity_clic_files import CONCEPT, Side
from similarity_plan import with_article

from conceptloom.methods.clic import OFFICIAL, OFFICIAL_LOOP, CLiCConfig
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.training.recipe import LoopConfig

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
