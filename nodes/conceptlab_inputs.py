"""Inputs and outputs of the ConceptLab nodes; settings come from the method's configs."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.conceptlab.config import LOOKS
from ..methods.conceptlab.spec import EVOLUTION, SPEC
from ..training.method_spec import RunSettings, settings_for
from .runs import name_input
from .sockets import LearnedConcept, PriorSocket, VqaSocket
from .widgets import named_widgets, widgets_of

MOST_PARENTS = 8
FIRST = ("steps", "learning_rate", "look_every")
LAST = (
    *("initialiser", "prior_steps", "prior_guidance", "checkpointing", "templates", "gallery"),
    *("gallery_seed", "save_every"),
)


def trainer_inputs() -> list[io.Input]:
    run = settings_for(SPEC)
    elsewhere = (*FIRST, *LAST, "negatives", "seed")
    return [
        _prior_input(),
        VqaSocket.Input(
            "vqa",
            optional=True,
            tooltip="VQA model that names what a picture shows, from Load BLIP-2. Without it, the "
            "list of negatives does not grow.",
        ),
        _handle_input("my-pet"),
        io.String.Input(
            "category",
            default=run.config.positives[0],
            tooltip="The category: pet, plant, fruit, musical instrument. Broad words leave more "
            "room. For a style: art.",
        ),
        *named_widgets(run, "negatives"),
        *_run_inputs("my-pet", run),
        *widgets_of(run.config, without=elsewhere),
        *named_widgets(run, *LAST),
    ]


def mixing_inputs() -> list[io.Input]:
    run = settings_for(SPEC)
    return [
        _prior_input(),
        _handle_input("my-mix"),
        io.String.Input(
            "words",
            default="lobster: 1\nturtle: 1",
            multiline=True,
            tooltip="One word per line, with a colon and its weight. At 2 to 1 the first pulls "
            "twice as hard.",
        ),
        *_run_inputs("my-mix", run, LOOKS),
        *named_widgets(run, "positive_ceiling", "initialiser_word", *LAST),
    ]


def evolution_inputs() -> list[io.Input]:
    run = settings_for(EVOLUTION)
    concepts = io.Autogrow.TemplatePrefix(
        LearnedConcept.Input(
            "concept",
            optional=True,
            tooltip="A parent concept trained with this prior; the node draws pictures of it "
            "first.",
        ),
        prefix="concept",
        min=0,
        max=MOST_PARENTS,
    )
    images = io.Autogrow.TemplatePrefix(
        io.Image.Input(
            "image",
            optional=True,
            tooltip="Three to five photographs of one parent, as a batch of the same size.",
        ),
        prefix="image",
        min=0,
        max=MOST_PARENTS,
    )
    return [
        _prior_input(),
        io.Autogrow.Input(
            "concepts",
            template=concepts,
            tooltip="Learned parents. Each connection adds a free socket.",
        ),
        io.Autogrow.Input(
            "images",
            template=images,
            tooltip="Photographed parents, one batch of pictures for each.",
        ),
        _handle_input("my-child"),
        *named_widgets(run, "first_word"),
        io.String.Input(
            "weights",
            default="",
            tooltip="Weight of each parent, separated by commas, concepts first: 2, 1. Empty: all "
            "equal.",
        ),
        *_run_inputs("my-child", run),
        *named_widgets(run, *LAST),
    ]


def lab_outputs(*, asks: bool = False) -> list[io.Output]:
    """The outputs of `result_of`."""
    row = "One row per round: the pictures, and the word that the answer added."
    left = io.String.Output(
        "negatives",
        tooltip="The words that the name moved away from, usable as another run's list.",
    )
    return [
        LearnedConcept.Output(
            "concept", tooltip="The selected checkpoint, for Save, Apply, Export and Evolve."
        ),
        io.Image.Output("samples", tooltip="The gallery of the selected checkpoint."),
        io.Image.Output("timeline", tooltip=row if asks else "One row of pictures per round."),
        io.Image.Output("similarity_plot", tooltip="Similarity to every constraint, by step."),
        io.Image.Output("loss_plot", tooltip="The terms of the loss by step."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        *([left] if asks else []),
        io.String.Output("report", tooltip="Rounds, similarities, checkpoints, and the file."),
    ]


def _prior_input() -> io.Input:
    return PriorSocket.Input("prior", tooltip="From Load Diffusion Prior.")


def _handle_input(default: str) -> io.Input:
    return io.String.Input(
        "handle",
        default=default,
        tooltip=f"The name to write as <{default}> in prompts.",
    )


def _run_inputs(name: str, run: RunSettings, looks: str | None = None) -> list[io.Input]:
    return [
        name_input(name),
        *named_widgets(run, *FIRST, look_every=looks),
        io.Int.Input(
            "checkpoint",
            default=0,
            min=0,
            max=100_000,
            tooltip="Step of the checkpoint to use; change it and queue again without training "
            "again. 0 is the last step; the report lists the checkpoints.",
        ),
        *named_widgets(run, "seed"),
    ]
