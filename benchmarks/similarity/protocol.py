"""The prompts and protocols by which the papers compare pictures with what was taught.

Break-A-Scene (arXiv 2305.16311, App. B.2): ten prompts; CLIP ViT-L/14 between
picture and prompt, the class word in the handle's place; DINO ViT-B/16 between input and picture,
both masked, on black (google/break-a-scene issue 32), the picture's masks by MaskFormer.

Personalized Residuals (arXiv 2405.12978) follows DreamBooth (arXiv
2208.12242, Sec. 4.2): 25 prompts, others for animals than for things; CLIP-T as above, CLIP-I and
DINO (there ViT-S/16) between whole pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from harness.statistics import Measure
from torch import Tensor

from conceptloom.methods.break_a_scene import BreakASceneConfig, ClassImages
from conceptloom.methods.personalized_residuals import PersonalizedResidualsConfig
from conceptloom.scenes.scene import ConceptScene
from conceptloom.training.phases import TokenPhase, WeightPhase

from .common import Found
from .encoders import Measures, on_black

CLIP_T, CLIP_I, DINO, MASKED, FOUND = "CLIP-T", "CLIP-I", "DINO", "masked DINO", "found"
COLUMNS = (CLIP_T, CLIP_I, DINO, MASKED, FOUND)
MEASURES = [Measure(column, column, "") for column in COLUMNS]
MEANINGS = """\
* CLIP-T: cosine of picture and prompt, the class word in the handle's place (both papers; ours
  writes it with its article where the prompt has none).
* CLIP-I, DINO: mean cosine of the picture with every taught one, whole pictures (DreamBooth's
  protocol, which Personalized Residuals follows).
* masked DINO: the same between taught and drawn object, everything around both of them black
  (Break-A-Scene's); over those that were found. It does not say what becomes of the others. The
  pictures are made square with black and seen whole: DINO's own cut from the middle, which the
  column before has, would lose objects at the edge.
* found: share of the objects asked for that the segmenter found in the picture. Of MaskFormer's
  queries those count whose class has half of the score or more, "nothing" included, and that keep
  most of their mask; of Grounding DINO's boxes those above its threshold. Of several objects with
  one class word each counts for another concept, matched so that together they are likest."""


def measured(
    measures: Measures, scene: ConceptScene, drawn: Sequence[tuple[Case, Tensor]]
) -> list[Found]:
    """What the pictures of a scene give, for each case.

    Args:
        drawn: pictures [n, H, W, 3] of each case.
    """
    rows: list[Found] = []
    references = {name: References(measures, scene, name) for name in scene.names}
    for case, images in drawn:
        row: dict[str, list[float]] = {name: [] for name in COLUMNS}
        rows.append(row)
        seen, features = measures.clip.of_images(images), measures.dino.of_images(images)
        row[CLIP_T] += (seen @ measures.clip.of_texts([case.plain])[0]).tolist()
        taught = [references[name] for name in case.names]
        row[CLIP_I] += (seen @ torch.cat([r.clip for r in taught]).T).mean(dim=1).tolist()
        row[DINO] += (features @ torch.cat([r.dino for r in taught]).T).mean(dim=1).tolist()
        if measures.cutter is None:
            continue
        words = [scene.words[name] for name in case.names]
        for image in images:
            masks = measures.cutter.cut(image, words)
            row[FOUND] += [float(mask is not None) for mask in masks]
            for word in dict.fromkeys(words):
                alone = [seen_alone(measures, image, mask)
                         for of, mask in zip(words, masks, strict=True)
                         if of == word and mask is not None]  # fmt: skip
                its = [r.masked for of, r in zip(words, taught, strict=True) if of == word]
                row[MASKED] += likest(alone, its)
    return rows


def pooled(rows: Iterable[Found]) -> Found:
    """All that several cases gave."""
    every = list(rows)
    return {column: [number for row in every for number in row[column]] for column in COLUMNS}


def likest(objects: Sequence[Tensor], taught: Sequence[Tensor]) -> list[float]:
    """Mean cosine of every found object with the pictures of the concept that it is held to be.

    Two of a kind come in no order: each object is another concept, so that the sum is the largest.

    Args:
        objects: [1, D] each, no more than concepts.
        taught: [n, D] of each concept.
    """
    alike = [[float((one @ pictures.T).mean()) for pictures in taught] for one in objects]
    ways = permutations(range(len(taught)), len(objects))
    return max(([row[i] for row, i in zip(alike, way, strict=True)] for way in ways), key=sum)


def seen_alone(measures: Measures, image: Tensor, mask: Tensor) -> Tensor:
    """[1, D] DINO's of what a mask [H, W] marks in a picture [H, W, 3], on black."""
    return measures.dino.of_images(on_black(image[None], mask[None]), margin=1)


class References:
    """A concept's taught pictures, as CLIP and DINO see them.

    Attributes:
        clip, dino: [n, D] of the whole pictures that show it.
        masked: [n, D] DINO's of the concept alone, on black.
    """

    def __init__(self, measures: Measures, scene: ConceptScene, name: str) -> None:
        shown = [picture for picture in scene.images if name in picture.masks]
        images = [picture.image[None] for picture in shown]
        self.clip = torch.cat([measures.clip.of_images(image) for image in images])
        self.dino = torch.cat([measures.dino.of_images(image) for image in images])
        self.masked = torch.cat([seen_alone(measures, p.image, p.masks[name]) for p in shown])


BREAK_A_SCENE, RESIDUALS = "break-a-scene", "residuals"
BASE = "base model"  # the class word alone, without any concept
PLACE = "{}"

BREAK_A_SCENE_PROMPTS = (
    "a photo of {} at the beach",
    "a photo of {} in the jungle",
    "a photo of {} in the snow",
    "a photo of {} in the street",
    "a photo of {} on top of a pink fabric",
    "a photo of {} on top of a wooden floor",
    "a photo of {} with a city in the background",
    "a photo of {} with a mountain in the background",
    "a photo of {} with the Eiffel tower in the background",
    "a photo of {} floating on top of water",
)
# google/dreambooth, dataset/prompts_and_classes.txt (CC BY 4.0)
_ANYWHERE = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)
_FURTHER = (
    "a {} with a wheat field in the background",
    "a {} with a tree and autumn leaves in the background",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} floating in an ocean of milk",
    "a {} on top of green grass with sunflowers around it",
    "a {} on top of a mirror",
    "a {} on top of the sidewalk in a crowded street",
    "a {} on top of a dirt road",
    "a {} on top of a white rug",
)
_CHANGED = ("a red {}", "a purple {}", "a shiny {}", "a wet {}", "a cube shaped {}")
DREAMBOOTH_PROMPTS = (*_ANYWHERE, *_FURTHER, *_CHANGED)
LIVE_PROMPTS = (
    *_ANYWHERE,
    "a {} wearing a red hat",
    "a {} wearing a santa hat",
    "a {} wearing a rainbow scarf",
    "a {} wearing a black top hat and a monocle",
    "a {} in a chef outfit",
    "a {} in a firefighter outfit",
    "a {} in a police outfit",
    "a {} wearing pink glasses",
    "a {} wearing a yellow shirt",
    "a {} in a purple wizard outfit",
    *_CHANGED,
)
# Prompts that ask for another background and leave the object as it is.
BACKGROUND_PROMPTS = (*BREAK_A_SCENE_PROMPTS, *_ANYWHERE, *_FURTHER)
LIVE = ("cat", "dog")  # the class words of its animals
PROMPTS = {BREAK_A_SCENE: BREAK_A_SCENE_PROMPTS, RESIDUALS: DREAMBOOTH_PROMPTS}
PAPER_TIMES = {
    BREAK_A_SCENE: "The paper (Sec. 5) tells 4.5 minutes a scene, on an A100 as its author says "
    "(google/break-a-scene issue 22).",
    RESIDUALS: "The paper tells 3 minutes a concept on an A100.",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt.

    Attributes:
        names: of the concepts that it asks for.
        prompt: with handles, for the method.
        plain: with class words in their place, for the base model and for CLIP.
        elsewhere: it asks for another background and leaves the object as it is.
    """

    names: tuple[str, ...]
    prompt: str
    plain: str
    elsewhere: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityBudget:
    """How much a run learns and draws."""

    break_a_scene: BreakASceneConfig
    residuals: PersonalizedResidualsConfig
    prompts: int = 25  # at most
    pictures: int = 4  # of a prompt
    sampling_steps: int = 50
    cfg: float = 7.5


def full_budget(resolution_px: int, seed: int) -> SimilarityBudget:
    """The official numbers."""
    return SimilarityBudget(
        break_a_scene=BreakASceneConfig(resolution_px=resolution_px, seed=seed),
        residuals=PersonalizedResidualsConfig(resolution_px=resolution_px, seed=seed),
    )


def quick_budget(resolution_px: int, seed: int) -> SimilarityBudget:
    """Enough to see that everything runs; the figures mean nothing."""
    return SimilarityBudget(
        break_a_scene=BreakASceneConfig(
            token_phase=TokenPhase(steps=2),
            weight_phase=WeightPhase(steps=2),
            resolution_px=resolution_px,
            class_images=ClassImages(draw=1, steps=2),
            seed=seed,
        ),
        residuals=PersonalizedResidualsConfig(
            steps=2, batch_size=1, resolution_px=resolution_px, seed=seed
        ),
        prompts=2,
        pictures=1,
        sampling_steps=2,
    )


def cases_of(method: str, words: Mapping[str, str], at_most: int = 25) -> Iterator[Case]:
    """Every concept alone and, with Break-A-Scene, all of a scene together, under every prompt.

    Args:
        words: name of a concept -> its class word.
    """
    sets: list[tuple[str, ...]] = [(name,) for name in words]
    if method == BREAK_A_SCENE and len(words) > 1:
        sets.append(tuple(words))
    for names in sets:
        is_live = method == RESIDUALS and words[names[0]] in LIVE
        for template in (LIVE_PROMPTS if is_live else PROMPTS[method])[:at_most]:
            if method == BREAK_A_SCENE:
                handles, plain = [f"<{n}>" for n in names], [with_article(words[n]) for n in names]
            else:
                handles, plain = [f"<{n}> {words[n]}" for n in names], [words[n] for n in names]
            asked, told = (template.replace(PLACE, " and ".join(x)) for x in (handles, plain))
            yield Case(names, asked, told, template in BACKGROUND_PROMPTS)


def with_article(word: str) -> str:
    """ "an apple", "a mug"."""
    return f"an {word}" if word[:1].lower() in tuple("aeiou") else f"a {word}"
