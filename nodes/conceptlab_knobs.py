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
            tooltip="Who says what a picture shows, from Load BLIP-2. Without it the list of "
            "negatives stays as you give it.",
        ),
        handle_input("my-pet"),
        io.String.Input(
            "category",
            default=DEFAULT.positives[0],
            tooltip="What it shall be a new kind of: pet, plant, fruit, musical instrument. The "
            "broader the word, the more room there is. For a style: art.",
        ),
        io.String.Input(
            "negatives",
            default="",
            multiline=True,
            tooltip="Members that it shall not become, with commas between. Empty: the first is "
            "found by asking.",
        ),
        *run_inputs("my-pet", DEFAULT, asks=True),
        io.Combo.Input(
            "object_or_style",
            options=[kind.value for kind in Kind],
            default=DEFAULT.kind.value,
            tooltip="Object, or style: other sentences, another question. For styles set "
            "negative_floor to 0.15.",
        ),
        io.String.Input(
            "locked",
            default="",
            advanced=True,
            tooltip="Negatives that never leave the list, whatever most_negatives says.",
        ),
        io.String.Input(
            "forbidden",
            default="",
            advanced=True,
            tooltip="Words that are never added, even if they are the answer, such as animal.",
        ),
        io.String.Input(
            "question",
            default=NEGATIVES.question,
            advanced=True,
            tooltip="What is asked about a picture. Empty asks as the paper: What kind of pet is "
            "in this photo?.",
        ),
        io.Boolean.Input(
            "gradual",
            default=NEGATIVES.gradual,
            advanced=True,
            tooltip="On: begins with one of the negatives and adds one at each look, instead of "
            "asking. Off: all at once.",
        ),
        whole_knob(
            "most_negatives",
            NEGATIVES.most,
            0,
            "At most this many at a time; the oldest leaves. 0 keeps all.",
        ),
        io.Boolean.Input(
            "keep_duplicates",
            default=NEGATIVES.keep_duplicates,
            advanced=True,
            tooltip="On: as the official code, every answer is added as it comes, repeats count "
            "more. Off: each word once, never the category itself.",
        ),
        whole_knob(
            "early_stop",
            NEGATIVES.early_stop,
            0,
            "Ends after this many looks in a row that bring nothing new. 0 goes on to the last "
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
            tooltip="One word a line, with a colon and its weight. 2 to 1 pulls twice as hard.",
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
            tooltip="A parent that was learned with this prior; pictures of it are drawn first.",
        ),
        prefix="concept",
        min=0,
        max=MOST_PARENTS,
    )
    images = io.Autogrow.TemplatePrefix(
        io.Image.Input(
            "image",
            optional=True,
            tooltip="Three to five photographs of one parent, as a batch of one size.",
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
            tooltip="Learned parents. A new socket appears with every one that you connect.",
        ),
        io.Autogrow.Input(
            "images",
            template=images,
            tooltip="Parents of real life, a batch of pictures for each of them.",
        ),
        handle_input("my-child"),
        io.String.Input(
            "first_word",
            default=CHILD.first_word,
            tooltip="What the name starts as: the category of the parents.",
        ),
        io.String.Input(
            "weights",
            default="",
            tooltip="How much of each parent, with commas between, concepts first: 2, 1. Empty: "
            "all alike.",
        ),
        *run_inputs("my-child", CHILD),
        *expert_inputs(word=False),
    ]


def lab_outputs(*, asks: bool = False) -> list[io.Output]:
    """What `result_of` gives."""
    row = "A row for every look: the pictures, and what the answer added."
    left = io.String.Output("negatives", tooltip="The words that it left, for another run's list.")
    return [
        LearnedConcept.Output(
            "concept", tooltip="The chosen checkpoint, for Save, Apply, Export and Evolve."
        ),
        io.Image.Output("samples", tooltip="The gallery of the chosen checkpoint."),
        io.Image.Output("timeline", tooltip=row if asks else "A row of pictures for every look."),
        io.Image.Output("similarity_plot", tooltip="How near it is to every constraint, by step."),
        io.Image.Output("loss_plot", tooltip="The terms of the loss over the steps."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        *([left] if asks else []),
        io.String.Output("report", tooltip="Looks, similarities, checkpoints, and the file."),
    ]
