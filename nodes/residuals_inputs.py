"""Inputs and outputs of Train Personalized Residuals; defaults come from the method's config."""

from __future__ import annotations

from comfy_api.latest import io

from ..methods.personalized_residuals import PersonalizedResidualsConfig
from ..training.adapters import Start
from ..training.recipe import LoopConfig
from .runs import model_inputs, name_input, preview_inputs
from .sockets import LearnedConcept

DEFAULT, LOOP = PersonalizedResidualsConfig(), LoopConfig()


def residuals_inputs() -> list[io.Input]:
    """What a user sees first, first."""
    previews = preview_inputs(50, "the one of the training.")
    return [*_sockets(), *_learning(), *_expert(), *previews]


def _sockets() -> list[io.Input]:
    return [
        *model_inputs(),
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
        name_input("my-cat"),
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
            "Side of the square cut from the middle of every picture; the model learns at this "
            "size. Choose the one that it draws at: 64 for TinyWorld, 512 for SD 1.5, 768 for SD "
            "2.1, 1024 for SDXL. Larger takes long and much memory and teaches a scale that it "
            "never draws; smaller loses detail. 0 keeps the pictures' own size.",
        ),
        io.Boolean.Input(
            "checkpointing",
            default=DEFAULT.checkpointing,
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


def residuals_outputs() -> list[io.Output]:
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
