"""Train Personalized Residuals: pictures of one concept in, a small concept out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..host.comfyui.progress import NodeProgress
from ..host.ports import Host, Progress
from ..methods.personalized_residuals import PersonalizedResidualsConfig, learn_residuals
from ..training.adapters import Start
from ..training.pictures import sample_strip
from ..training.plots import loss_plot
from ..training.previews import PreviewConfig
from ..training.recipe import LoopConfig
from ..training.session import Learned
from .shared import CATEGORY, applied, host_of, picture, shown
from .sockets import LearnedConcept
from .trainer import RUNS, run_folder, saved

DEFAULT, LOOP, PREVIEWS = PersonalizedResidualsConfig(), LoopConfig(), PreviewConfig()


class TrainPersonalizedResiduals(io.ComfyNode):
    """Learns one concept from a few pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomTrainPersonalizedResiduals",
            display_name="Train Personalized Residuals",
            category=CATEGORY,
            description="Learns one concept from a few pictures, as small residuals (5 MB for "
            "SD 1.5) that Apply LAG adds only where the concept is. Needs no masks and no "
            "pictures of the class. Cancelling keeps the work; queue again and it goes on.",
            search_aliases=["train lora", "dreambooth", "personalization", "subject"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[*_sockets(), *_learning(), *_expert(), *_previews()],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, images: Tensor, handle: str, class_word: str,
        captions: str, name: str, **knobs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        folder, progress = run_folder(name), NodeProgress(cls.hidden.unique_id)
        lesson = Lesson(images, handle, class_word, lines_of(captions))
        learned = learn(host_of(model, clip, vae), lesson, knobs, folder, progress)
        report = report_of(learned, folder)
        progress(1, 1, report)
        models = applied(model, clip, learned.concept, strength=1.0)
        pictures = pictures_of(learned)
        losses = {"loss": [row["total"] for row in learned.history]}
        on_node = shown(cls, pictures[0], report)
        return io.NodeOutput(learned.concept, *models, *pictures, losses, report, ui=on_node)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What came in through the sockets."""

    images: Tensor  # [P, H, W, C]
    handle: str
    class_word: str
    captions: tuple[str, ...]


def learn(
    host: Host, lesson: Lesson, knobs: dict[str, Any], folder: Path, progress: Progress
) -> Learned:
    """Learn outside of the inference mode in which nodes run, on copies made there.

    Raises:
        ConceptLoomError: see `learn_residuals`.
    """
    known = set(PersonalizedResidualsConfig.__dataclass_fields__)
    config: dict[str, Any] = {name: knobs[name] for name in knobs.keys() & known}
    config["start"] = Start(config["start"])
    with torch.inference_mode(False):
        return learn_residuals(
            host,
            [image.clone() for image in lesson.images],
            lesson.handle,
            lesson.class_word,
            PersonalizedResidualsConfig(**config),
            captions=lesson.captions,
            loop=LoopConfig(save_every=knobs["save_every"], preview_every=knobs["preview_every"]),
            previews=PreviewConfig(
                prompts=lines_of(knobs["preview_prompts"]),
                steps=knobs["preview_steps"],
                cfg=knobs["preview_cfg"],
            ),
            folder=folder,
            progress=progress,
        )


def lines_of(text: str) -> tuple[str, ...]:
    """Lines that hold something."""
    return tuple(filter(None, map(str.strip, text.splitlines())))


def pictures_of(learned: Learned) -> list[Tensor]:
    """IMAGEs: samples, timeline, attention, loss plot."""
    timeline = learned.timeline
    if timeline is None:  # no preview was asked for
        timeline = sample_strip(list(learned.samples), [""] * len(learned.samples))
    others = timeline, learned.overlay, loss_plot(learned.history)
    return [learned.samples, *map(picture, others)]


def report_of(learned: Learned, folder: Path) -> str:
    """What a user wants to know of a finished run, line by line."""
    concept, losses = learned.concept, learned.concept.history
    path = saved(concept, folder)
    return "\n".join(
        [
            f"Loss at the end of {losses['steps']} steps: {losses['total']:.4g}",
            f"{len(concept.weights)} output projections, {path.stat().st_size / 2**20:.1f} MiB",
            f"Saved: {path}",
            f"Use with Apply LAG: {concept.prompts[0]}",
        ]
    )


def _sockets() -> list[io.Input]:
    return [
        io.Model.Input(
            "model",
            tooltip="The base model: Stable Diffusion 1.x, 2.x or XL, or TinyWorld. It stays as it "
            "is.",
        ),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint. It stays as it is."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.Image.Input(
            "images",
            tooltip="3 to 5 pictures of the same thing, or a single one; a batch of one size. An "
            "alpha channel is ignored.",
        ),
        io.String.Input(
            "handle",
            default="my-cat",
            tooltip="The name that you will write as <my-cat> in prompts.",
        ),
        io.String.Input(
            "class_word",
            default="cat",
            tooltip="What kind of thing it is, one plain word or several. The closer the better: "
            "sports car is better than vehicle. Write it behind the name in prompts.",
        ),
        io.String.Input(
            "captions",
            default="",
            multiline=True,
            advanced=True,
            tooltip="One line for each picture, with {} where name and class word stand, for "
            "example: a photo of a {} on a sofa. Empty: the prompt below for all.",
        ),
        io.String.Input(
            "name",
            default="my-cat",
            tooltip=f"Names the folder output/{RUNS.as_posix()}/<name> for states, losses and the "
            "concept file. The same inputs find their own state there, whatever else lies beside.",
        ),
    ]


def _learning() -> list[io.Input]:
    return [
        _whole("steps", DEFAULT.steps, 1, "Few learn little; many learn the background too."),
        _whole(
            "batch_size", DEFAULT.batch_size, 1, "Pictures in a step. More need more memory."
        ),
        _number(
            "learning_rate",
            DEFAULT.learning_rate,
            "How far the residuals move in a step. Too low: no likeness. Too high: everything "
            "looks like the training pictures, or the loss explodes.",
        ),
        _number(
            "ratio",
            DEFAULT.ratio,
            "Rank of a residual as a share of its layer's width. 0.05 is 16 to 64 on SD 1.5 and "
            "a file of 5 MB; 0.01 is 1 MB; from 1 on it is the rank itself.",
            most=1024.0,
        ),
        _whole(
            "seed", DEFAULT.seed, 0, "The same seed and inputs give the same concept, bit for bit."
        ),
    ]  # fmt: skip


def _expert() -> list[io.Input]:
    return [
        _whole(
            "resolution_px",
            DEFAULT.resolution_px,
            0,
            "Side of the square cut from the middle of every picture. 0 keeps their size; 512 is "
            "what SD 1.5 likes.",
            advanced=True,
        ),
        io.Boolean.Input(
            "checkpointing",
            default=DEFAULT.checkpointing,
            advanced=True,
            tooltip="On: much less memory and about a third more time. Off: faster.",
        ),
        io.Combo.Input(
            "start",
            options=[start.value for start in Start],
            default=DEFAULT.start.value,
            advanced=True,
            tooltip="How the factors begin. Kaiming and gaussian leave the model as it is at "
            "first; both random is what the paper says, with a small second factor.",
        ),
        io.String.Input(
            "rare_token",
            default=DEFAULT.rare_token,
            advanced=True,
            tooltip="A word that means nothing to the model, whose vector the name takes over. "
            "Empty draws one by chance.",
        ),
        io.Boolean.Input(
            "train_handle",
            default=DEFAULT.train_handle,
            advanced=True,
            tooltip="On: the name's vector learns too. Off: only the residuals do.",
        ),
        _number("handle_rate", DEFAULT.handle_rate, "How far the name moves, if it learns."),
        io.String.Input(
            "prompt",
            default=DEFAULT.prompt,
            advanced=True,
            tooltip="Of pictures without a caption; {} is name and class word.",
        ),
        io.Float.Input(
            "flip",
            default=DEFAULT.flip,
            min=0.0,
            max=1.0,
            step=0.05,
            advanced=True,
            tooltip="Chance that a step sees a picture mirrored. 0 for things with writing or a "
            "left and a right, 1 mirrors always.",
        ),
        _whole(
            "accumulation",
            DEFAULT.accumulation,
            1,
            "Forward passes in a step: steadier and slower, with no more memory.",
            advanced=True,
        ),
        _whole(
            "save_every",
            LOOP.save_every,
            0,
            "Steps between saved states, from which a crashed run goes on. 0 saves only at the "
            "end and when you cancel.",
            advanced=True,
        ),
    ]


def _previews() -> list[io.Input]:
    return [
        _whole("preview_every", 50, 0, "Steps between previews on the node. 0 draws none."),
        io.String.Input(
            "preview_prompts",
            default="",
            multiline=True,
            advanced=True,
            tooltip="One prompt per line, drawn at every preview. Empty: the one of the training.",
        ),
        _whole(
            "preview_steps",
            PREVIEWS.steps,
            1,
            "Sampling steps of a preview. Few are quick and rough.",
            advanced=True,
        ),
        io.Float.Input(
            "preview_cfg",
            default=PREVIEWS.cfg,
            min=1.0,
            max=30.0,
            step=0.5,
            advanced=True,
            tooltip="Guidance of a preview. 1 is none; high is harsh.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        LearnedConcept.Output("concept", tooltip="For Apply LAG, LAG Sampler, Save and Export."),
        io.Model.Output("model", tooltip="The MODEL with the residuals everywhere (LAG off)."),
        io.Clip.Output("clip", tooltip="The CLIP that knows the name."),
        io.Image.Output("samples", tooltip="The preview prompts, drawn without LAG."),
        io.Image.Output("timeline", tooltip="All previews from the same noise: see when to stop."),
        io.Image.Output("attention", tooltip="Where the name looks in the first picture."),
        io.Image.Output("loss_plot", tooltip="The loss over the steps."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        io.String.Output("report", tooltip="Loss, size, where it was saved, and a prompt."),
    ]


def _whole(
    name: str, default: int, least: int, tooltip: str, *, advanced: bool = False
) -> io.Input:
    return io.Int.Input(
        name,
        default=default,
        min=least,
        max=2**32 - 1 if name == "seed" else 100_000,
        control_after_generate=False,
        advanced=advanced,
        tooltip=tooltip,
    )


def _number(name: str, default: float, tooltip: str, *, most: float = 1.0) -> io.Input:
    return io.Float.Input(
        name,
        default=default,
        min=1e-7,
        max=most,
        step=1e-7,
        round=False,
        advanced=name == "handle_rate",
        tooltip=tooltip,
    )
