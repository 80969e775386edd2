"""Inputs and outputs of the ConceptLab nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.conceptlab import Kind
from .conceptlab_widgets import (
    CHILD,
    DEFAULT,
    NEGATIVES,
    ceiling_input,
    expert_inputs,
    handle_input,
    negatives_inputs,
    prior_input,
    run_inputs,
    whole_knob,
)
from .sockets import LearnedConcept, VqaSocket

MOST_PARENTS = 8


def trainer_inputs() -> list[io.Input]:
    return [
        prior_input(),
        VqaSocket.Input(
            "vqa",
            optional=True,
            tooltip="VQA model that names what a picture shows, from Load BLIP-2. Without it, "
            "the list of negatives does not grow.",
        ),
        handle_input("my-pet"),
        io.String.Input(
            "category",
            default=DEFAULT.positives[0],
            tooltip="The category: pet, plant, fruit, musical instrument. Broad words leave "
            "more room. For a style: art.",
        ),
        io.String.Input(
            "negatives",
            default="",
            multiline=True,
            tooltip="Members to avoid, separated by commas. Empty: the first one comes from "
            "the VQA model.",
        ),
        *run_inputs("my-pet", DEFAULT, asks=True),
        io.Combo.Input(
            "object_or_style",
            options=[kind.value for kind in Kind],
            default=DEFAULT.kind.value,
            tooltip="Object or style: selects the training sentences and the question. For "
            "styles set negative_floor to 0.15.",
        ),
        io.String.Input(
            "locked",
            default="",
            advanced=True,
            tooltip="Negatives that never leave the list, regardless of most_negatives.",
        ),
        io.String.Input(
            "forbidden",
            default="",
            advanced=True,
            tooltip="Words to ignore as answers, such as animal.",
        ),
        io.String.Input(
            "question",
            default=NEGATIVES.question,
            advanced=True,
            tooltip="Question about each picture. Empty uses the paper's: What kind of pet is "
            "in this photo?.",
        ),
        io.Boolean.Input(
            "gradual",
            default=NEGATIVES.gradual,
            advanced=True,
            tooltip="On: starts with one of the negatives and adds one in each round, instead "
            "of asking. Off: uses all from the start.",
        ),
        whole_knob(
            "most_negatives",
            NEGATIVES.most,
            0,
            "Maximum number of negatives at a time; the oldest leaves first. 0 keeps all.",
        ),
        io.Boolean.Input(
            "keep_duplicates",
            default=NEGATIVES.keep_duplicates,
            advanced=True,
            tooltip="On: adds every answer as it comes, as the official code does; repeats "
            "count more. Off: adds each word once, and never the category itself.",
        ),
        whole_knob(
            "early_stop",
            NEGATIVES.early_stop,
            0,
            "Stops after this many rounds in a row without a new word. 0 continues to the last "
            "step.",
        ),
        ceiling_input(),
        *negatives_inputs(),
        *expert_inputs(),
    ]


def mixing_inputs() -> list[io.Input]:
    return [
        prior_input(),
        handle_input("my-mix"),
        io.String.Input(
            "words",
            default="lobster: 1\nturtle: 1",
            multiline=True,
            tooltip="One word per line, with a colon and its weight. At 2 to 1 the first pulls "
            "twice as hard.",
        ),
        *run_inputs("my-mix", DEFAULT),
        ceiling_input(),
        *expert_inputs(),
    ]


def evolution_inputs() -> list[io.Input]:
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
        prior_input(),
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
        handle_input("my-child"),
        io.String.Input(
            "first_word",
            default=CHILD.first_word,
            tooltip="Word to start from: the category of the parents.",
        ),
        io.String.Input(
            "weights",
            default="",
            tooltip="Weight of each parent, separated by commas, concepts first: 2, 1. Empty: "
            "all equal.",
        ),
        *run_inputs("my-child", CHILD),
        *expert_inputs(word=False),
    ]


def lab_outputs(*, asks: bool = False) -> list[io.Output]:
    """What `result_of` gives."""
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
