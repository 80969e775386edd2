"""Train Personalized Residuals: learns a small concept from a few pictures."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..host.comfyui.apply import check_new_handles
from ..host.comfyui.progress import NodeProgress
from ..methods.personalized_residuals import PersonalizedResidualsConfig, learn_residuals
from ..methods.registry import settings_of_folder
from ..training.recipe import LoopConfig
from ..training.results import size_of
from ..training.runner import TrainingResult
from .runs import (
    concept_saver,
    handed_out,
    models_to_train,
    name_input,
    preview_inputs,
    run_folder,
    saved_line,
)
from .shared import CATEGORY, host_of, lines_of
from .sockets import LearnedConcept
from .widgets import named_widgets, widgets_of


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
        captions: str, name: str, **widgets: Any,
    ) -> io.NodeOutput:  # fmt: skip
        check_new_handles(model, clip, [handle])
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        chosen = settings_of_folder("personalized_residuals").changed(widgets)
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


def residuals_inputs() -> list[io.Input]:
    """The inputs, the important ones first."""
    previews = preview_inputs(50, "the training prompt.")
    config = PersonalizedResidualsConfig()
    return [*_sockets(), *widgets_of(config), *named_widgets(LoopConfig(), "save_every"), *previews]


def _sockets() -> list[io.Input]:
    return [
        *models_to_train(),
        io.Image.Input(
            "images",
            tooltip="3 to 5 pictures of the same object, or one; a batch of the same size. The "
            "alpha channel is ignored.",
        ),
        io.String.Input(
            "handle",
            default="my-cat",
            tooltip="The name to write as <my-cat> in prompts.",
        ),
        io.String.Input(
            "class_word",
            default="cat",
            tooltip="The class of the object, one plain word or several. Specific is better: "
            "sports car rather than vehicle. Write it after the name in prompts.",
        ),
        io.String.Input(
            "captions",
            default="",
            multiline=True,
            advanced=True,
            tooltip="One caption per picture, with {} in place of name and class word, for "
            "example: a photo of a {} on a sofa. Empty: all pictures use the prompt below.",
        ),
        name_input("my-cat"),
    ]


def residuals_outputs() -> list[io.Output]:
    return [
        LearnedConcept.Output("concept", tooltip="For Apply LAG, LAG Sampler, Save and Export."),
        io.Model.Output(
            "model", tooltip="The MODEL with the residuals applied everywhere (without LAG)."
        ),
        io.Clip.Output("clip", tooltip="The CLIP that knows the name."),
        io.Image.Output("samples", tooltip="The preview prompts, drawn without LAG."),
        io.Image.Output(
            "timeline",
            tooltip="All previews from the same noise. Use them to choose the number of steps.",
        ),
        io.Image.Output("attention", tooltip="The attention of the name on the first picture."),
        io.Image.Output("loss_plot", tooltip="The loss by step."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        io.String.Output("report", tooltip="Loss, size, path of the saved file, and a prompt."),
    ]
