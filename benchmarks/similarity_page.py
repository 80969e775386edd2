"""How like their prompts and what was taught drawn pictures are, and the page that tells it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations

import torch
from quality_plan import without_phase_1
from quality_tables import Measure
from similarity_cells import LAG, LORA
from similarity_measures import Measures, on_black
from similarity_plan import BASE, BREAK_A_SCENE, PROMPTS, Case, SimilarityBudget
from similarity_tables import SPREAD, Row, Rows, gain_table, head, table
from torch import Tensor

from conceptloom.scenes.scene import ConceptScene

CLIP_T, CLIP_I, DINO, MASKED, FOUND = "CLIP-T", "CLIP-I", "DINO", "masked DINO", "found"
COLUMNS = (CLIP_T, CLIP_I, DINO, MASKED, FOUND)
# What the paper's ablation (Sec. 5.2) says that gets lost without a part, in our columns.
SERVES = {
    "without phase 1": CLIP_T,
    "without masked loss": CLIP_T,
    "without attention loss": MASKED,
    "without union sampling": MASKED,
}
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
) -> list[Row]:
    """What the pictures of a scene give, for each case.

    Args:
        drawn: pictures [n, H, W, 3] of each case.
    """
    rows: list[Row] = []
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


def pooled(rows: Iterable[Row]) -> Row:
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


def page(
    rows: Rows,
    elsewhere: Rows,
    method: str,
    budget: SimilarityBudget,
    told: Sequence[str],
    command: str,
    device: str,
) -> str:
    """The results as Markdown.

    Args:
        rows: variant -> scene -> what its pictures gave.
        elsewhere: the same of the prompts that ask for another background alone.
        told: lines on model, encoders and segmenter.
    """
    scenes = len(next(iter(rows.values())))
    prompts = min(budget.prompts, len(PROMPTS[method]))
    about = (
        f"{scenes} scene(s), {prompts} prompts, {budget.pictures} picture(s) each, "
        f"{budget.sampling_steps} DDIM steps at guidance {budget.cfg:g}; the variants share their "
        f"noise. {BASE.capitalize()}: the class word alone, as far as words get. {SPREAD}"
    )
    lines = [
        *head(f"Similarity by the papers' protocol: {method}", command, device),
        *told,
        "",
        about,
        "",
        *table(rows, COLUMNS),
        "",
        MEANINGS,
        "",
        *_ablations(rows, budget),
        *_localising(rows, elsewhere),
    ]
    return "\n".join(lines)


def _localising(rows: Rows, elsewhere: Rows) -> list[str]:
    """What it is good for that residuals work only where the object is."""
    if not {LAG, LORA} <= set(rows):
        return []
    measures = [Measure(column, column, "") for column in COLUMNS]
    every, places = (
        list(gain_table(of, LAG, {LORA: told}, measures, "prompts"))
        for of, told in ((rows, "all"), (elsewhere, "another background, the object as it is"))
    )
    return [
        "## What localising is good for",
        "",
        "By how much LAG is better than the same residuals added everywhere: mean over the same "
        "scenes ± standard error, bold beyond two standard errors. It is meant for residuals that "
        "have learned the background too: CLIP-T should gain by it. CLIP-I and DINO of whole "
        "pictures count such a background as likeness.",
        "",
        *every,
        places[-1],
        "",
    ]


def _ablations(rows: Rows, budget: SimilarityBudget) -> list[str]:
    """What each part of Break-A-Scene is good for, if it was also learned without."""
    if not set(SERVES) <= set(rows):
        return []
    measures = [Measure(column, column, "") for column in COLUMNS]
    return [
        "## What each part is good for",
        "",
        "By how much the whole method is better than without the part: mean over the same scenes "
        "± standard error, bold beyond two standard errors. The last column is what the paper's "
        "ablation (Sec. 5.2) says that the part holds up. Without phase 1 all "
        f"{without_phase_1(budget.break_a_scene).weight_phase.steps} steps are of phase 2.",
        "",
        *gain_table(rows, BREAK_A_SCENE, SERVES, measures, "the paper says"),
        "",
    ]
