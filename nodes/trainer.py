"""Cross-Attention Loss Trainer: learns a concept from a scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..host.comfyui.apply import check_new_handles
from ..host.comfyui.progress import NodeProgress
from ..host.ports import Host, Progress
from ..scenes.scene import ConceptScene
from ..training.common_settings import Seeded
from ..training.method_spec import RunSettings
from ..training.runner import TrainingResult
from ..viz.overlays import describe_scores
from .presets import preset_input, settings_of
from .runs import (
    concept_saver,
    handed_out,
    models_to_train,
    name_input,
    preview_inputs,
    run_folder,
    saved_line,
)
from .shared import CATEGORY, host_of
from .sockets import LearnedConcept, Scene
from .widgets import named_widgets


class CrossAttentionLossTrainer(io.ComfyNode):
    """Learns the concepts of a scene."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomCrossAttentionLossTrainer",
            display_name="Cross-Attention Loss Trainer",
            category=CATEGORY,
            description="Learns the concepts of a scene, one word each. Break-A-Scene "
            "separates objects by fitting each word's attention to its own mask; CLiC learns "
            "one detail of an object in its context. Cancelling saves the progress; queue "
            "again to resume.",
            search_aliases=[
                "break-a-scene",
                "clic",
                "custom diffusion",
                "ornament",
                "train",
                "learn",
                "teach",
                "textual inversion",
                "dreambooth",
                "lora",
            ],
            is_output_node=True,
            accept_all_inputs=True,  # settings in a saved prompt may have earlier names
            hidden=[io.Hidden.unique_id],
            inputs=[*_sockets(), preset_input(), *_widgets()],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, scene: ConceptScene, preset: dict[str, Any],
        name: str, prior_images: Tensor | None = None, **of_the_node: Any,
    ) -> io.NodeOutput:  # fmt: skip
        check_new_handles(model, clip, scene.names)
        settings, folder = settings_of(preset, **of_the_node), run_folder(name)
        progress, host = NodeProgress(cls.hidden.unique_id), host_of(model, clip, vae)
        learned = learned_scene(host, scene, settings, folder, prior_images, progress)
        report = report_of(scene, learned)
        progress(1, 1, report)
        return handed_out(cls, model, clip, learned, report)


def _sockets() -> list[io.Input]:
    return [
        *models_to_train(),
        Scene.Input("scene", tooltip="The training scene, from Concept Scene."),
        io.Image.Input(
            "prior_images",
            optional=True,
            tooltip="Class pictures: examples of what the model should still be able to draw, "
            "at the size of the scene's pictures. Without them, the model draws its own first.",
        ),
    ]


def _widgets() -> list[io.Input]:
    return [
        name_input("my-scene"),
        *named_widgets(Seeded(), "seed"),
        *preview_inputs(100, "every concept alone, then all together."),
    ]


def _outputs() -> list[io.Output]:
    return [
        LearnedConcept.Output(
            "concept", tooltip="The learned concept, for Save, Apply, Export and Inspect Concept."
        ),
        io.Model.Output("model", tooltip="The MODEL with the concept applied, for any sampler."),
        io.Clip.Output(
            "clip", tooltip="The CLIP that knows the names, for any node that encodes prompts."
        ),
        io.Image.Output("samples", tooltip="The preview prompts, drawn with the learned concept."),
        io.Image.Output(
            "timeline",
            tooltip="All previews from the same noise, one row each. Use them to "
            "choose the number of steps.",
        ),
        io.Image.Output(
            "attention",
            tooltip="The attention of each name on its picture, with the mask's outline, IoU "
            "(1 is best) and leak (0 is best).",
        ),
        io.Image.Output("loss_plot", tooltip="Every term of the loss by step."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        io.String.Output(
            "report",
            tooltip="Figures for each name, time, memory, and the paths of the saved files.",
        ),
    ]


def learned_scene(
    host: Host, scene: ConceptScene, settings: RunSettings, folder: Path, prior: Tensor | None,
    progress: Progress,
) -> TrainingResult:  # fmt: skip
    """Train on copies, outside the inference mode of nodes; `prior` holds class pictures."""
    with torch.inference_mode(False):
        return settings.learn(
            host,
            copied_scene(scene),
            class_images=None if prior is None else prior[..., :3].clone(),
            folder=folder,
            save=concept_saver(folder),
            progress=progress,
        )


def copied_scene(scene: ConceptScene) -> ConceptScene:
    """A copy of the scene for autograd; tensors of upstream nodes are inference tensors."""
    pictures = tuple(
        replace(p, image=p.image.clone(), masks={n: mask.clone() for n, mask in p.masks.items()})
        for p in scene.images
    )
    return ConceptScene(pictures, scene.words)


def report_of(scene: ConceptScene, learned: TrainingResult) -> str:
    """Report of a finished run, line by line."""
    lines = list(scene.remarks)
    lines += [f"<{name}>: {describe_scores(*scores)}" for name, scores in learned.scores.items()]
    losses = learned.concept.history
    terms = ["total", *sorted(losses.keys() - {"steps", "total"})]
    terms_summary = ", ".join(f"{name} {losses[name]:.4g}" for name in terms)
    lines.append(f"Loss at the end of {losses['steps']} steps: {terms_summary}")
    lines.append(f"Planned: {learned.estimate}")
    lines.append(saved_line(learned.path, learned.trouble))
    lines.append(f"States: {learned.states}")
    lines.append(f"Use: {learned.concept.prompts[-1]}")
    return "\n".join(lines)
