"""Train Personalized Residuals: learns a small concept from a few pictures."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..host.comfyui.apply import check_new_handles
from ..host.comfyui.progress import NodeProgress
from ..methods.personalized_residuals import learn_residuals
from ..methods.registry import settings_of_folder
from ..training.results import size_of
from ..training.runner import TrainingResult
from .residuals_inputs import residuals_inputs, residuals_outputs
from .runs import concept_saver, handed_out, run_folder, saved_line
from .shared import CATEGORY, host_of, lines_of


class TrainPersonalizedResiduals(io.ComfyNode):
    """Learns one concept from a few pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomTrainPersonalizedResiduals",
            display_name="Train Personalized Residuals",
            category=CATEGORY,
            description="Learns one concept from a few pictures as small residuals (5 MB for "
            "SD 1.5). Apply LAG adds them only where the concept appears. Needs no masks and "
            "no class pictures. Cancelling saves the progress; queue again to resume.",
            search_aliases=["train lora", "dreambooth", "personalization", "subject"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=residuals_inputs(),
            outputs=residuals_outputs(),
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, images: Tensor, handle: str, class_word: str,
        captions: str, name: str, **knobs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        check_new_handles(model, clip, [handle])
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        chosen = settings_of_folder("personalized_residuals").changed(knobs)
        host = host_of(model, clip, vae)
        with torch.inference_mode(False):  # on copies
            learned = learn_residuals(
                host, [image.clone() for image in images], handle, class_word, chosen.config,
                captions=lines_of(captions), loop=chosen.loop, previews=chosen.previews,
                folder=folder, save=concept_saver(folder), progress=progress,
            )  # fmt: skip
        report = report_of(learned)
        progress(1, 1, report)
        return handed_out(cls, model, clip, learned, report)


def report_of(learned: TrainingResult) -> str:
    """Report of a finished run, line by line."""
    concept, losses = learned.concept, learned.concept.history
    return "\n".join(
        [
            f"Loss at the end of {losses['steps']} steps: {losses['total']:.4g}",
            f"{len(concept.weights)} output projections, {size_of(concept) / 2**20:.1f} MiB",
            saved_line(learned.path, learned.trouble),
            f"States: {learned.states}",
            f"Use with Apply LAG: {concept.prompts[0]}",
        ]
    )
