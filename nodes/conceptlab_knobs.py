"""Inputs and outputs of the ConceptLab nodes; each default is read from the method's config."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.conceptlab import OFFICIAL_LOOP, ConceptLabConfig, EvolutionConfig, Kind
from ..training.handles import Initialiser
from .sockets import LearnedConcept, PriorSocket, VqaSocket
from .trainer import RUNS

LAB_LOOP = OFFICIAL_LOOP
DEFAULT, CHILD = ConceptLabConfig(), EvolutionConfig()
NEGATIVES = DEFAULT.negatives
MOST_PARENTS = 8


def trainer_inputs() -> list[io.Input]:
    return [
        _prior_input(),
        VqaSocket.Input(
            "vqa",
            optional=True,
            tooltip="Who says what a picture shows, from Load BLIP-2. Without it the list of "
            "negatives stays as you give it.",
        ),
        _handle_input("my-pet"),
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
        *_run_inputs("my-pet", DEFAULT),
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
        _whole(
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
        _whole(
            "early_stop",
            NEGATIVES.early_stop,
            0,
            "Ends after this many looks in a row that bring nothing new. 0 goes on to the last "
            "step.",
        ),
        *_clamp_inputs(),
        *_expert_inputs(),
    ]


def mixing_inputs() -> list[io.Input]:
    return [
        _prior_input(),
        _handle_input("my-mix"),
        io.String.Input(
            "words",
            default="lobster: 1\nturtle: 1",
            multiline=True,
            tooltip="One word a line, with a colon and its weight. 2 to 1 pulls twice as hard.",
        ),
        *_run_inputs("my-mix", DEFAULT),
        *_clamp_inputs(),
        *_expert_inputs(),
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
        _prior_input(),
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
        _handle_input("my-child"),
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
        *_run_inputs("my-child", CHILD),
        *_expert_inputs(word=False),
    ]


def lab_outputs() -> list[io.Output]:
    return [
        LearnedConcept.Output(
            "concept", tooltip="The chosen checkpoint, for Save, Apply, Export and Evolve."
        ),
        io.Image.Output("samples", tooltip="The gallery of the chosen checkpoint."),
        io.Image.Output(
            "timeline", tooltip="A row for every look: the pictures, and what the answer added."
        ),
        io.Image.Output("similarity_plot", tooltip="How near it is to every constraint, by step."),
        io.Image.Output("loss_plot", tooltip="The terms of the loss over the steps."),
        io.LossMap.Output("loss_map", tooltip="The losses, for ComfyUI's own Plot Loss Graph."),
        io.String.Output("negatives", tooltip="The words that it left, for another run's list."),
        io.String.Output("report", tooltip="Looks, similarities, checkpoints, and the file."),
    ]


def _prior_input() -> io.Input:
    return PriorSocket.Input("prior", tooltip="From Load Diffusion Prior.")


def _handle_input(default: str) -> io.Input:
    return io.String.Input(
        "handle",
        default=default,
        tooltip=f"The name that you will write as <{default}> in prompts.",
    )


def _run_inputs(name: str, config: ConceptLabConfig | EvolutionConfig) -> list[io.Input]:
    return [
        io.String.Input(
            "name",
            default=name,
            tooltip=f"Names the folder output/{RUNS.as_posix()}/<name> for states, pictures and "
            "the concept file. The same inputs find their own state there.",
        ),
        _whole("steps", config.steps, 1, "Good results often come at 250 to 500.", advanced=False),
        _rate("learning_rate", config.learning_rate),
        _whole(
            "look_every",
            NEGATIVES.every,
            0,
            "Steps between looks: a gallery, a checkpoint and, with a VQA, a question. 0 never.",
            advanced=False,
        ),
        _whole(
            "checkpoint",
            0,
            0,
            "The step to use; change it and queue again, nothing is learned again. 0 is the end; "
            "the report lists them.",
            advanced=False,
        ),
        _whole(
            "seed", config.seed, 0, "The same seed and inputs give the same concept, bit for bit."
        ),
    ]


def _clamp_inputs() -> list[io.Input]:
    near = "A space that is not CLIP's (TinyWorld, none) has a value of its own for the default."
    return [
        _cosine(
            "positive_ceiling",
            DEFAULT.positive_ceiling,
            f"Similarity with the category that is near enough. Higher is more typical. {near}",
        ),
        _cosine(
            "negative_floor",
            DEFAULT.negative_floor,
            f"Similarity with a negative that is far enough. Lower is stranger. {near}",
        ),
        io.Float.Input(
            "positive_weight",
            default=DEFAULT.positive_weight,
            min=0.0,
            max=5.0,
            step=0.05,
            advanced=True,
            tooltip="Weight of the category against the negatives. 0 lets it leave the category.",
        ),
    ]


def _expert_inputs(*, word: bool = True) -> list[io.Input]:
    first = io.String.Input(
        "initialiser_word",
        default=DEFAULT.initialiser_word,
        advanced=True,
        tooltip="What the name starts as. Empty: the category, or the first word of a mix.",
    )
    return [
        *([first] if word else []),
        io.Combo.Input(
            "initialiser",
            options=[Initialiser.MEAN.value, Initialiser.FIRST.value],
            default=DEFAULT.initialiser.value,
            advanced=True,
            tooltip="A word of several tokens starts as their mean, or as the first alone, which "
            "is what the official code does.",
        ),
        _whole("prior_steps", DEFAULT.sampling.steps, 2, "Steps of the prior; each costs alike."),
        io.Float.Input(
            "prior_guidance",
            default=DEFAULT.sampling.guidance,
            min=1.0,
            max=20.0,
            step=0.5,
            advanced=True,
            tooltip="How closely the prior follows a prompt: 1 is none and halves the work, 4 is "
            "official.",
        ),
        io.Boolean.Input(
            "checkpointing",
            default=DEFAULT.sampling.checkpointing,
            advanced=True,
            tooltip="On: memory of one step of the prior, a third more time. Off: faster.",
        ),
        io.String.Input(
            "templates",
            default="",
            multiline=True,
            advanced=True,
            tooltip="Sentences to learn in, one a line, with {concept} and, if you like, {a} for "
            "its article. Empty: the official ones.",
        ),
        io.String.Input(
            "gallery",
            default="",
            multiline=True,
            advanced=True,
            tooltip="Prompts of the pictures, one a line, with {concept}. The first is asked "
            "about. Empty: the official ones.",
        ),
        _whole("gallery_seed", DEFAULT.gallery_seed, 0, "Of the noise of those pictures."),
        _whole(
            "save_every",
            LAB_LOOP.save_every,
            0,
            "Steps between saved states, from which a crashed run goes on. 0: only at the end and "
            "when you cancel.",
        ),
    ]


def _whole(name: str, default: int, least: int, tooltip: str, *, advanced: bool = True) -> io.Input:
    return io.Int.Input(
        name,
        default=default,
        min=least,
        max=2**32 - 1 if "seed" in name else 100_000,
        control_after_generate=False,
        advanced=advanced,
        tooltip=tooltip,
    )


def _rate(name: str, default: float) -> io.Input:
    return io.Float.Input(
        name,
        default=default,
        min=1e-7,
        max=1.0,
        step=1e-7,
        round=False,
        tooltip="How far the name moves in a step: 1e-4 for Kandinsky, 1e-2 for TinyWorld. Too "
        "high and it wanders off.",
    )


def _cosine(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=-1.0, max=1.0, step=0.01, advanced=True, tooltip=tooltip
    )
