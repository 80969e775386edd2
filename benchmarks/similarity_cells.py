"""What Break-A-Scene and Personalized Residuals learn of a scene and draw with it, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from quality_plan import VARIANTS as CHANGES
from quality_plan import WHOLE
from quality_runs import NO_PREVIEW
from similarity_costs import kept_concept
from similarity_plan import BASE, BREAK_A_SCENE, RESIDUALS, Case, SimilarityBudget, cases_of
from similarity_runs import checkpoint_digest, decoded, kept_pictures
from torch import Tensor

from conceptloom.attention.lag_config import LagConfig
from conceptloom.concepts.concept import Concept, stacked
from conceptloom.concepts.fingerprints import content_key
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Progress
from conceptloom.methods.break_a_scene import learn_scene
from conceptloom.methods.personalized_residuals import Localised, learn_residuals, sample_lag
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.scenes.scene import ConceptScene
from conceptloom.training.runner import TrainingResult

LAG, LORA = "residuals with LAG", "residuals everywhere"
VARIANTS = {
    BREAK_A_SCENE: {BREAK_A_SCENE: None, BASE: None},
    RESIDUALS: {LAG: LagConfig(), LORA: LagConfig(localised=False), BASE: None},
}
# Name of what is learned -> the official settings with that part switched off, as on TinyWorld.
PARTS = {name: change for name, change in CHANGES.items() if name != WHOLE}


def variants_of(method: str, *, with_ablations: bool) -> Iterator[str]:
    """What is drawn with: the rows of the table."""
    for variant in VARIANTS[method]:
        if variant == BASE and with_ablations:
            yield from PARTS
        yield variant


@dataclass(frozen=True, slots=True)
class SimilarityLesson:
    """A scene, what is asked of it, and the folder where all that comes of it is kept."""

    scene: ConceptScene
    method: str
    cases: tuple[Case, ...]
    folder: Path


def lesson_of(
    host: DiffusersHost, name: str, scene: ConceptScene, method: str, budget: SimilarityBudget,
    seed: int, cells: Path,
) -> SimilarityLesson:  # fmt: skip
    """A scene with its folder: other settings, models or pictures have another one."""
    cases = tuple(cases_of(method, scene.words, budget.prompts))
    masks = [mask for picture in scene.images for mask in picture.masks.values()]
    given = {"images": [picture.image for picture in scene.images], "masks": masks}
    asked = [case.prompt for case in cases]
    settings = [str(host.dtype), seed, asdict(budget), dict(scene.words), asked]
    key = content_key(checkpoint_digest(host), settings, given)[:12]
    return SimilarityLesson(scene, method, cases, cells / method / f"{name}-{key}")


def files_of(lesson: SimilarityLesson, variant: str) -> dict[str, Path]:
    """Name of what a variant learns -> the file of its concept."""
    if variant == BASE:
        return {}
    if lesson.method == RESIDUALS:
        names = {name: name for name in lesson.scene.names}
    else:
        names = {variant: f"scene-{variant.replace(' ', '-')}" if variant in PARTS else "scene"}
    return {name: lesson.folder / f"{stem}.concept.safetensors" for name, stem in names.items()}


def learned(
    host: DiffusersHost, lesson: SimilarityLesson, variant: str, budget: SimilarityBudget
) -> list[Concept]:
    """What a variant learns, from the folder, or taught now; stopped runs go on."""
    scene = lesson.scene

    def taught(name: str, states: Path, progress: Progress) -> TrainingResult:
        if lesson.method == BREAK_A_SCENE:
            config = CHANGES.get(variant, CHANGES[WHOLE])(budget.break_a_scene)
            return learn_scene(
                host, scene, config, previews=NO_PREVIEW, folder=states, progress=progress,
            )  # fmt: skip
        images = [picture.image for picture in scene.images if name in picture.masks]
        return learn_residuals(
            host, images, name, scene.words[name], budget.residuals,
            previews=NO_PREVIEW, folder=states, progress=progress,
        )  # fmt: skip

    return [
        kept_concept(path, host.device.type, partial(taught, name))
        for name, path in files_of(lesson, variant).items()
    ]


def draws(
    host: DiffusersHost,
    variant: str,
    concepts: Sequence[Concept],
    budget: SimilarityBudget,
    seed: int,
) -> Callable[[Case], Tensor]:
    """Draws the latents of a case, as a variant does it."""
    config, side = VARIANTS[RESIDUALS].get(variant), budget.break_a_scene.resolution_px
    noise = seeded_noise(host, seed, budget.pictures, (side, side))

    def plain(text: str, concept: Concept | None = None) -> Tensor:
        stack = stacked([(concept, 1.0)] if concept else [])
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            prompt, negative = host.encode_prompt(text, stack.handles), host.encode_prompt("")
            return sample_ddim(
                host, [prompt], negative, noise, steps=budget.sampling_steps, cfg=budget.cfg
            )

    def draw(case: Case) -> Tensor:
        if variant == BASE:
            return plain(case.plain)
        (concept,) = [c for c in concepts if set(case.names) <= set(c.names)]
        if config is None:
            return plain(case.prompt, concept)
        given = [Localised(concept=concept, config=config)]
        return sample_lag(
            host, given, [case.prompt], noise, steps=budget.sampling_steps, cfg=budget.cfg
        )

    return draw


def pictures(
    host: DiffusersHost, lesson: SimilarityLesson, variant: str, budget: SimilarityBudget, seed: int
) -> list[tuple[Case, Tensor]]:
    """[n, H, W, 3] of every case, from the folder; or drawn now, learned before if need be."""

    def drawn() -> Iterator[Tensor]:
        draw = draws(host, variant, learned(host, lesson, variant, budget), budget, seed)
        return (decoded(host, draw(case)) for case in lesson.cases)

    path = lesson.folder / f"{variant.replace(' ', '-')}.pictures.safetensors"
    return list(zip(lesson.cases, kept_pictures(path, drawn), strict=True))
