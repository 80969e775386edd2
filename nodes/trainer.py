"""Cross-Attention Loss Trainer: a scene in, a concept and pictures of how it went out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..host.comfyui.progress import NodeProgress
from ..host.ports import Host, Progress
from ..training.concept import Concept, LowRank
from ..training.concept_file import save_concept
from ..training.paths import confined_path
from ..training.pictures import sample_strip, scores_told
from ..training.plots import loss_plot
from ..training.previews import PreviewConfig
from ..training.scene import ConceptScene, SceneImage
from ..training.session import Learned
from .presets import preset_input, settings_of
from .settings import Settings
from .shared import CATEGORY, SUFFIX, applied, host_of, picture, shown
from .sockets import LearnedConcept, Scene

RUNS = Path("conceptloom", "runs")  # in ComfyUI's output folder


class CrossAttentionLossTrainer(io.ComfyNode):
    """Learns the concepts of a scene."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomCrossAttentionLossTrainer",
            display_name="Cross-Attention Loss Trainer",
            category=CATEGORY,
            description="Learns the concepts of a scene, each as a word: objects kept apart by "
            "pulling each word's attention onto its own mask (Break-A-Scene), or one detail of an "
            "object in its context (CLiC). Cancelling keeps the work; queue again and it goes on.",
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
            hidden=[io.Hidden.unique_id],
            inputs=[*_sockets(), preset_input(), *_widgets()],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, scene: ConceptScene, preset: dict[str, Any],
        name: str, seed: int, preview_every: int, preview_prompts: str, preview_steps: int,
        preview_cfg: float, prior_images: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        settings = settings_of(preset, seed, preview_every)
        prompts = tuple(filter(None, map(str.strip, preview_prompts.splitlines())))
        previews = PreviewConfig(prompts=prompts, steps=preview_steps, cfg=preview_cfg)
        folder = run_folder(name)
        run = Run(host_of(model, clip, vae), scene, settings, previews, folder, prior_images)
        told, progress = [], NodeProgress(cls.hidden.unique_id)
        learned = run.learn(_keeping_first(progress, told))
        report = report_of(run, learned, told[0] if told else "")
        progress(1, 1, report)
        models = applied(model, clip, learned.concept, strength=1.0)
        pictures = pictures_of(run, learned)
        losses = {"loss": [row["total"] for row in learned.history]}
        on_node = shown(cls, pictures[0], report)
        return io.NodeOutput(learned.concept, *models, *pictures, losses, report, ui=on_node)


def _sockets() -> list[io.Input]:
    return [
        io.Model.Input(
            "model",
            tooltip="The base model: Stable Diffusion 1.x, 2.x or XL, or TinyWorld. It stays as it "
            "is.",
        ),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint. It stays as it is."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        Scene.Input("scene", tooltip="What to learn, from Concept Scene."),
        io.Image.Input(
            "prior_images",
            optional=True,
            tooltip="Pictures of what the model should still be able to draw, as large as the "
            "scene's. Without any it draws its own first.",
        ),
    ]


def _widgets() -> list[io.Input]:
    previews = PreviewConfig()
    return [
        io.String.Input(
            "name",
            default="my-scene",
            tooltip=f"Names the folder output/{RUNS.as_posix()}/<name> for states, losses and the "
            "concept file. The same inputs find their own state there, whatever else lies beside.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**32 - 1,
            control_after_generate=False,
            tooltip="Everything random: the same seed and inputs give the same concept, bit for "
            "bit, on the same machine.",
        ),
        io.Int.Input(
            "preview_every",
            default=100,
            min=0,
            max=100_000,
            tooltip="Steps between previews on the node and in the timeline. 0 draws none while "
            "learning; few steps show more and take longer.",
        ),
        io.String.Input(
            "preview_prompts",
            default="",
            multiline=True,
            advanced=True,
            tooltip="One prompt per line, drawn at every preview. Empty: every concept alone, then "
            "all of them together.",
        ),
        io.Int.Input(
            "preview_steps",
            default=previews.steps,
            min=1,
            max=200,
            advanced=True,
            tooltip="Sampling steps of a preview. Few are quick and rough.",
        ),
        io.Float.Input(
            "preview_cfg",
            default=previews.cfg,
            min=1.0,
            max=30.0,
            step=0.5,
            advanced=True,
            tooltip="Guidance of a preview. 1 is none; high is harsh.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        LearnedConcept.Output(
            "concept", tooltip="What was learned, for Save, Apply, Export and Inspect Concept."
        ),
        io.Model.Output("model", tooltip="The MODEL with the concept applied, for any sampler."),
        io.Clip.Output(
            "clip", tooltip="The CLIP that knows the names, for any node that takes a prompt."
        ),
        io.Image.Output("samples", tooltip="The preview prompts, drawn with what was learned."),
        io.Image.Output(
            "timeline", tooltip="All previews, a row each, from the same noise: see when to stop."
        ),
        io.Image.Output(
            "attention",
            tooltip="Where each name looks in its picture, with the mask's outline, IoU (1 is "
            "best) and leak (0 is best).",
        ),
        io.Image.Output("loss_plot", tooltip="Every term of the loss over the steps."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        io.String.Output(
            "report", tooltip="Figures per name, time and memory, and where everything was saved."
        ),
    ]


@dataclass(frozen=True, slots=True)
class Run:
    """One training run of the node."""

    host: Host
    scene: ConceptScene
    settings: Settings
    previews: PreviewConfig
    folder: Path
    prior_images: Tensor | None = None

    def learn(self, progress: Progress) -> Learned:
        """Learn outside of the inference mode in which nodes run, on copies made there."""
        with torch.inference_mode(False):
            given = self.prior_images
            return self.settings.learn(
                self.host,
                copied_scene(self.scene),
                self.previews,
                self.folder,
                progress,
                given if given is None else given[..., :3].clone(),
            )


def copied_scene(scene: ConceptScene) -> ConceptScene:
    """The scene in tensors that autograd may keep, which those of upstream nodes are not."""
    pictures = tuple(
        SceneImage(p.image.clone(), {name: mask.clone() for name, mask in p.masks.items()})
        for p in scene.images
    )
    return ConceptScene(pictures, scene.words)


def run_folder(name: str) -> Path:
    """Where the states of a run lie, inside of ComfyUI's output folder.

    Raises:
        ConceptFileError: the name would lead out of it.
    """
    root = Path(folder_paths.get_output_directory()) / RUNS
    return confined_path(root, name, SUFFIX).with_suffix("")


def saved(concept: Concept, folder: Path) -> Path:
    """Keep the concept beside the states of its run; another result gets another file."""
    digest = hashlib.sha256()
    for name, vectors in concept.handles.items():
        digest.update(name.encode())
        for rows in vectors.values():
            digest.update(rows.numpy().tobytes())
    for change in concept.weights.values():  # names may stay as they were; whole weights are many
        if isinstance(change, LowRank):
            digest.update(change.up.numpy().tobytes())
    return save_concept(concept, folder / f"{folder.name}-{digest.hexdigest()[:8]}{SUFFIX}")


def pictures_of(run: Run, learned: Learned) -> list[Tensor]:
    """IMAGEs: samples, timeline, attention, loss plot."""
    timeline = learned.timeline
    if timeline is None:  # no preview was asked for
        timeline = sample_strip(list(learned.samples), [""] * len(learned.samples))
    plot = loss_plot(learned.history)
    return [learned.samples, *map(picture, (timeline, learned.overlay, plot))]


def report_of(run: Run, learned: Learned, estimate: str) -> str:
    """What a user wants to know of a finished run, line by line."""
    lines = [f"<{name}>: {scores_told(*scores)}" for name, scores in learned.scores.items()]
    losses = learned.concept.history
    terms = ["total", *sorted(losses.keys() - {"steps", "total"})]
    told = ", ".join(f"{name} {losses[name]:.4g}" for name in terms)
    lines.append(f"Loss at the end of {losses['steps']} steps: {told}")
    if estimate:
        lines.append(f"Planned: {estimate}")
    lines.append(f"Saved: {saved(learned.concept, run.folder)}")
    lines.append(f"Use: {learned.concept.prompts[-1]}")
    return "\n".join(lines)


def _keeping_first(progress: Progress, told: list[str]) -> Progress:
    """A progress that also keeps the first message, which is what the run will need."""

    def report(step: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
        if not told:
            told.append(message)
        progress(step, total, message, preview)

    return report
