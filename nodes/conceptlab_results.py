"""Outputs of the ConceptLab nodes after a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io

from ..concepts.concept import Concept
from ..host.ports import Progress
from ..methods.conceptlab import SIMILARITY, Invented, describe_lineage
from ..training.results import ResultFile
from .runs import concept_saver, saved_line
from .shared import picture, shown


def result_of(
    cls: Any, made: Invented, checkpoint: int, folder: Path, progress: Progress, *,
    asks: bool = False,
) -> io.NodeOutput:  # fmt: skip
    """Values for `lab_outputs`, with the selected checkpoint."""
    concept, path, trouble = saved(made, checkpoint, folder)  # before anything is drawn
    chosen = checkpoint or made.checkpoints.steps[-1]
    samples = made.checkpoints.pictures(chosen)
    samples = torch.zeros(1, 64, 64, 3) if samples is None else samples
    timeline = made.timeline()
    timeline = samples if timeline is None else picture(timeline)
    report = report_of(made, concept, saved_line(path, trouble))
    progress(1, 1, report)
    losses = {"loss": [row["total"] for row in made.history]}
    on_node = shown(cls, timeline, report)
    left = [", ".join(made.negatives)] if asks else []
    plotted = map(picture, made.plots())
    return io.NodeOutput(concept, samples, timeline, *plotted, losses, *left, report, ui=on_node)


def saved(made: Invented, checkpoint: int, folder: Path) -> tuple[Concept, Path | None, str]:
    """The selected checkpoint, the path of its file, and the reason if it was not saved."""
    concept = made.at(checkpoint)
    if concept is made.concept:
        return concept, made.path, made.trouble
    result = ResultFile(concept_saver(folder))
    result.save(concept)
    return concept, result.path, result.trouble


def report_of(made: Invented, concept: Concept, saved: str) -> str:
    """Report of a finished run, line by line."""
    (name,) = concept.names
    similar = {
        k.removeprefix(SIMILARITY): v
        for k, v in concept.history.items()
        if k.startswith(SIMILARITY)
    }
    return "\n".join(
        [
            *(one.summary() for one in made.rounds),
            *describe_lineage(name, concept.recipe),
            "Final similarities: " + ", ".join(f"{k} {v:.3f}" for k, v in similar.items()),
            *filter(None, [made.describe_ceiling()]),
            f"Checkpoints: {', '.join(map(str, made.checkpoints.steps))}",
            saved,
            f"Use: {concept.prompts[0]}",
        ]
    )
