"""How like their sentence and their concepts woven pictures are, and the page that tells it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch
from similarity_costs import Cost, cost_lines
from similarity_crops import square_around
from similarity_measures import Measures
from similarity_tables import SPREAD, Row, Rows, head, table
from similarity_weave_cells import Masks, Times
from similarity_weave_files import Part, WeaveJob
from similarity_weave_plan import (
    BASE,
    NOTES,
    PUBLISHED,
    PUBLISHED_SECONDS,
    VARIANTS,
    WeaveSimilarityBudget,
)
from torch import Tensor

from conceptloom.methods.concept_weaver import InversionConfig
from conceptloom.viz.overlays import sample_strip

CLIP_T, CLIP_I, DINO = "CLIP-T", "CLIP-I of crops", "DINO of crops"
COLUMNS = (CLIP_T, CLIP_I, DINO)
MEANINGS = f"""\
* {CLIP_T}: cosine of the whole picture and the sentence with its class words.
* {CLIP_I}, {DINO}: mean cosine of the square around a concept's region with every taught
  picture of it; with the square around the object there where its pictures came with masks. A
  background's concept is not among them."""
CAVEAT = (
    "What the paper tells of its own pictures, which are not these; it does not name the CLIP "
    "model, and figures of two models cannot be compared. Read the order, not the numbers."
)


def taught_pictures(part: Part) -> list[Tensor]:
    """What a concept was learned from, cut to the object where masks say where it is."""
    shown = [(picture.image, picture.masks[part.name]) for picture in part.taught.images]
    return [image if mask.min() == 1 else square_around(image, mask) for image, mask in shown]


def measured(
    measures: Measures, job: WeaveJob, masks: Masks, drawn: Mapping[str, Tensor]
) -> dict[str, Row]:
    """What the pictures of a weave give, by variant.

    Args:
        masks: of the size of the pictures.
        drawn: variant -> [H, W, 3].
    """

    def seen(column: str, images: Sequence[Tensor]) -> Tensor:
        """[n, D] of pictures [H, W, 3] of any sizes; square ones are seen whole."""
        if column == CLIP_I:
            return torch.cat([measures.clip.of_images(image[None]) for image in images])
        return torch.cat([measures.dino.of_images(image[None], margin=1.0) for image in images])

    sentence = measures.clip.of_texts([job.sentence])[0]
    taught = {(column, part.name): seen(column, taught_pictures(part))
              for column in (CLIP_I, DINO) for part in job.parts}  # fmt: skip
    found: dict[str, Row] = {}
    for variant, image in drawn.items():
        row = {CLIP_T: [float(measures.clip.of_images(image[None])[0] @ sentence)]}
        crops = [square_around(image, masks[part.name]) for part in job.parts]
        for column in (CLIP_I, DINO):
            row[column] = [
                float((crop @ taught[column, part.name].T).mean())
                for part, crop in zip(job.parts, seen(column, crops), strict=True)
            ]
        found[variant] = row
    return found


def page(
    rows: Rows,
    times: Mapping[str, Mapping[str, Times]],
    costs: Sequence[Cost],
    budget: WeaveSimilarityBudget,
    told: Sequence[str],
    command: str,
    device: str,
    picture: str,
) -> str:
    """The results as Markdown.

    Args:
        rows: variant -> weave -> what its picture gave.
        times: variant -> weave -> what it took.
        costs: of every concept of the bank.
        told: lines on model, encoders and segmenter.
        picture: file of all pictures; "" for none.
    """
    weaves = len(next(iter(rows.values())))
    learned = budget.bank.weight_phase.steps
    lines = [
        *head("Similarity by the papers' protocol: Concept Weaver", command, device),
        *told,
        "",
        f"{weaves} weave(s). Concepts learned in K and V, {learned} steps each; {budget.steps} "
        f"steps of inversion and of the sampler at guidance {VARIANTS[BASE].cfg:g}. {SPREAD}",
        "",
        *table(rows, COLUMNS),
        "",
        MEANINGS,
        *(f"* {variant}: {note}." for variant, note in NOTES.items()),
        "",
        "## The paper's own figures",
        "",
        "| method | CLIP text | CLIP image |",
        "|---|--:|--:|",
        *(f"| {name} | {text:.4f} | {image:.4f} |" for name, (text, image) in PUBLISHED.items()),
        "",
        CAVEAT,
        "",
        "## Seconds of a weave",
        "",
        *describe_times(times),
        "",
        *cost_lines({"a concept of the bank": costs}, "The paper tells of none."),
    ]
    if picture:
        lines += ["", f"![The template and every variant, a row for each weave]({picture})"]
    return "\n".join(lines) + "\n"


def describe_times(times: Mapping[str, Mapping[str, Times]]) -> list[str]:
    """A row for each variant, and how well the templates come back."""
    lines = ["| variant | inversion | fusion | together |", "|---|--:|--:|--:|"]
    for variant, weaves in times.items():
        inversion = statistics.mean(one.inversion for one in weaves.values())
        fusion = statistics.mean(one.fusion for one in weaves.values())
        lines.append(f"| {variant} | {inversion:.1f} | {fusion:.1f} | {inversion + fusion:.1f} |")
    back = [one.psnr for weaves in times.values() for one in weaves.values()]
    to_noise = 1 + InversionConfig().refinements
    return [
        *lines,
        "",
        f"Wall time, mean over the weaves, concepts learned before. The paper: {PUBLISHED_SECONDS} "
        f"seconds on an RTX 3090. The templates come back with {min(back):.1f} to {max(back):.1f} "
        f"dB. Inversion is {to_noise} passes a step to the noise, one to draw the template again "
        "(which nothing but these dB needs) and, where features are kept, one that is cut short.",
    ]


def sheet(jobs: Mapping[str, WeaveJob], drawn: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """[H, W, 3] the template and every variant, a row for each weave."""
    images: list[Tensor] = []
    captions: list[str] = []
    for name, job in jobs.items():
        images += [job.template, *drawn[name].values()]
        captions += [name, *drawn[name]]
    return sample_strip(images, captions, n_columns=1 + len(VARIANTS))
