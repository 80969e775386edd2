"""Widgets that several ConceptLab nodes have; each default is read from the method's config."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.conceptlab import OFFICIAL_LOOP, ConceptLabConfig, EvolutionConfig, Initialiser
from .runs import RUNS
from .sockets import PriorSocket

LAB_LOOP = OFFICIAL_LOOP
DEFAULT, CHILD = ConceptLabConfig(), EvolutionConfig()
NEGATIVES = DEFAULT.negatives


def prior_input() -> io.Input:
    return PriorSocket.Input("prior", tooltip="From Load Diffusion Prior.")


def handle_input(default: str) -> io.Input:
    return io.String.Input(
        "handle",
        default=default,
        tooltip=f"The name to write as <{default}> in prompts.",
    )


def run_inputs(
    name: str, config: ConceptLabConfig | EvolutionConfig, *, asks: bool = False
) -> list[io.Input]:
    what = (
        "each saves a gallery and a checkpoint and, with a VQA model, asks a question"
        if asks
        else "each saves a gallery and a checkpoint"
    )
    return [
        io.String.Input(
            "name",
            default=name,
            tooltip=f"Name of the folder output/{RUNS.as_posix()}/<name> for states, pictures and "
            "the concept file. The same inputs resume from their own state there.",
        ),
        whole_knob(
            "steps",
            config.steps,
            1,
            "Training steps. Good results often appear at 250 to "
            "500; too many drift away from the category.",
            advanced=False,
        ),
        rate_knob("learning_rate", config.learning_rate),
        whole_knob(
            "look_every",
            NEGATIVES.every,
            0,
            f"Steps between rounds: {what}. 0 disables rounds.",
            advanced=False,
        ),
        whole_knob(
            "checkpoint",
            0,
            0,
            "Step of the checkpoint to use; change it and queue again without training again. "
            "0 is the last step; the report lists the checkpoints.",
            advanced=False,
        ),
        whole_knob(
            "seed", config.seed, 0, "The same seed and inputs give the same concept, bit for bit."
        ),
    ]


_OWN_VALUE = "Spaces other than CLIP's (TinyWorld, none) have their own default."


def ceiling_input() -> io.Input:
    return cosine_knob(
        "positive_ceiling",
        DEFAULT.positive_ceiling,
        f"Target similarity to the category. Higher is more typical. {_OWN_VALUE}",
    )


def negatives_inputs() -> list[io.Input]:
    """How far away negatives are far enough, and how much they count."""
    return [
        cosine_knob(
            "negative_floor",
            DEFAULT.negative_floor,
            f"Target similarity to a negative. Lower is stranger. {_OWN_VALUE}",
        ),
        io.Float.Input(
            "positive_weight",
            default=DEFAULT.positive_weight,
            min=0.0,
            max=5.0,
            step=0.05,
            advanced=True,
            tooltip="Weight of the category relative to the negatives. 0 lets the name leave "
            "the category; high values stay typical.",
        ),
    ]


def expert_inputs(*, word: bool = True) -> list[io.Input]:
    first = io.String.Input(
        "initialiser_word",
        default=DEFAULT.initialiser_word,
        advanced=True,
        tooltip="Word to start from. Empty: the category, or the first word of a mix.",
    )
    return [
        *([first] if word else []),
        io.Combo.Input(
            "initialiser",
            options=[Initialiser.MEAN.value, Initialiser.FIRST.value],
            default=DEFAULT.initialiser.value,
            advanced=True,
            tooltip="How to start from a word of several tokens: from their mean, or from the "
            "first token alone as in the official code.",
        ),
        whole_knob(
            "prior_steps",
            DEFAULT.sampling.steps,
            2,
            "Steps of the prior; the time grows with each.",
        ),
        io.Float.Input(
            "prior_guidance",
            default=DEFAULT.sampling.guidance,
            min=1.0,
            max=20.0,
            step=0.5,
            advanced=True,
            tooltip="Guidance scale of the prior: 1 disables guidance and halves the work, the "
            "official value is 4.",
        ),
        io.Boolean.Input(
            "checkpointing",
            default=DEFAULT.sampling.checkpointing,
            advanced=True,
            tooltip="Gradient checkpointing. On: the memory of one step of the prior, a third "
            "more time. Off: faster.",
        ),
        io.String.Input(
            "templates",
            default="",
            multiline=True,
            advanced=True,
            tooltip="Training sentences, one per line, with {concept} and optionally {a} for "
            "its article. Empty: the official ones.",
        ),
        io.String.Input(
            "gallery",
            default="",
            multiline=True,
            advanced=True,
            tooltip="Prompts of the pictures, one per line, with {concept}. The VQA question "
            "concerns the first picture. Empty: the official ones.",
        ),
        whole_knob("gallery_seed", DEFAULT.gallery_seed, 0, "Seed of the noise of those pictures."),
        whole_knob(
            "save_every",
            LAB_LOOP.save_every,
            0,
            "Steps between saved states, from which a crashed run resumes. 0 saves only at the "
            "end and on cancel.",
        ),
    ]


def whole_knob(
    name: str, default: int, least: int, tooltip: str, *, advanced: bool = True
) -> io.Input:
    return io.Int.Input(
        name,
        default=default,
        min=least,
        max=2**32 - 1 if "seed" in name else 100_000,
        control_after_generate=False,
        advanced=advanced,
        tooltip=tooltip,
    )


def rate_knob(name: str, default: float) -> io.Input:
    return io.Float.Input(
        name,
        default=default,
        min=1e-7,
        max=1.0,
        step=1e-7,
        round=False,
        tooltip="Learning rate of the name: 1e-4 for Kandinsky, 1e-2 for TinyWorld. High "
        "values make the name drift off.",
    )


def cosine_knob(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=-1.0, max=1.0, step=0.01, advanced=True, tooltip=tooltip
    )
