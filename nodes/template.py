"""Invert Template: computes noise and features of a picture, for weaving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import ImageError
from ..host.comfyui.noise import picture_scale
from ..host.comfyui.progress import NodeProgress
from ..host.comfyui.sampling import latent_of, scheduler_names, sigmas_of
from ..host.ports import Host, latent_size
from ..methods.concept_weaver import InversionConfig, Keep, Template, make_template
from ..methods.concept_weaver.features import fitting
from ..training.setting import changed
from ..viz.overlays import sample_strip
from .inputs import model_inputs
from .shared import CATEGORY, host_of, picture, shown, whole_numbers
from .sockets import TemplateSocket
from .widgets import named_widgets

WEAVER = f"{CATEGORY}/Concept Weaver"
AUTO = "auto"


class InvertTemplate(io.ComfyNode):
    """A picture -> TEMPLATE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomInvertTemplate",
            display_name="Invert Template",
            category=WEAVER,
            description="Inverts a picture: computes the noise from which your sampler redraws "
            "it, and the model's features on the way (DDIM inversion, Plug-and-Play). Region "
            "Feature Fuser uses them to keep the picture's layout while it places your "
            "concepts.",
            search_aliases=["ddim inversion", "plug and play", "pnp", "reverse", "template"],
            hidden=[io.Hidden.unique_id],
            inputs=_inputs(),
            outputs=[
                TemplateSocket.Output("template", tooltip="For Regions and Region Feature Fuser."),
                io.Sigmas.Output("sigmas", tooltip="The noise levels for the sampler."),
                io.Latent.Output(
                    "latent",
                    tooltip="The picture's noise, the starting point for the sampler. Disable "
                    "the sampler's own noise.",
                ),
                io.Image.Output(
                    "reconstruction",
                    tooltip="The picture redrawn from that noise, without any concept.",
                ),
                io.String.Output(
                    "report", tooltip="PSNR of the reconstruction, and where features are stored."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, image: Tensor, prompt: str, scheduler: str, keep: str,
        resnet_blocks: str, attention_blocks: str, sigmas: Tensor | None = None, **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        host = host_of(model, clip, vae)
        config = config_of(settings, resnet_blocks=resnet_blocks, attention_blocks=attention_blocks)
        levels = sigmas if sigmas is not None else sigmas_of(model, scheduler, config.steps)
        config = keeping(host, image, config, len(levels) - 1, keep)
        report = NodeProgress(cls.hidden.unique_id)
        template = make_template(host, image, prompt, levels, config, progress=report)
        summary = describe_template(template)
        latent, back = start_latent(model, template), picture(template.reconstruction)
        on_node = shown(cls, picture(compared(template)), summary)
        return io.NodeOutput(template, template.sigmas, latent, back, summary, ui=on_node)


def _inputs() -> list[io.Input]:
    config = InversionConfig()
    return [
        *model_inputs("The model for weaving, without any concept applied.", vae=""),
        io.Image.Input(
            "image",
            tooltip="One picture, generated or photographed, at the size to draw: 512 px for "
            "SD 1.5, 768 for SD 2.1, 1024 for SDXL, Anima, Z-Image and Krea 2. Sides must be "
            "multiples of 8.",
        ),
        io.String.Input(
            "prompt",
            default="a photo of a mug and a fish",
            multiline=True,
            tooltip="Description of the picture in plain words, ideally the sentence of "
            "Regions. Empty works and keeps the layout slightly less well.",
        ),
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="Noise levels of the sampler, down to 0. They replace steps and scheduler.",
        ),
        *named_widgets(config, "steps"),
        io.Combo.Input(
            "scheduler",
            options=scheduler_names(),
            default="ddim_uniform",
            tooltip="Spacing of the noise levels; Plug-and-Play uses ddim_uniform.",
        ),
        *named_widgets(config, "refinements"),
        io.Combo.Input(
            "keep",
            options=[AUTO, *(keep.value for keep in Keep)],
            default=AUTO,
            tooltip="Where to store features: RAM, the GPU (fastest), or none, which "
            "recomputes them in each step. auto uses RAM if they fit into a quarter of the "
            "free memory.",
        ),
        *named_widgets(config, "resnet_until", "attention_until"),
        _blocks(
            "resnet_blocks",
            "ResNet output",
            "4",
            "Anima, Z-Image and Krea 2 all but the last (values)",
        ),
        _blocks(
            "attention_blocks",
            "self-attention",
            "4, 7, 9",
            "Anima three of the second half (queries, keys), on Z-Image and Krea 2 all but the "
            "last (keys)",
        ),
    ]


def _blocks(name: str, what: str, on_sd: str, on_others: str) -> io.Input:
    return io.String.Input(
        name,
        default="",
        advanced=True,
        tooltip=f"Indices of the decoder blocks with {what} injection. Empty: {on_sd} on SD 1 and "
        f"2 as in the paper, the same depth on SDXL, on {on_others}.",
    )


def config_of(settings: Mapping[str, Any], **blocks: str) -> InversionConfig:
    """The settings, with block numbers typed as lists.

    Raises:
        ConfigError: a value is invalid.
    """
    numbers = {name: whole_numbers(name, text) for name, text in blocks.items()}
    return replace(changed(InversionConfig(), settings), **numbers)


def keeping(
    host: Host, image: Tensor, config: InversionConfig, steps: int, keep: str
) -> InversionConfig:
    """The settings with the storage of features; `auto` checks the free memory.

    Raises:
        ImageError: the image is not a single picture.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ImageError(
            f"The image has the shape {list(image.shape)}; a template is one picture. Select one "
            "of the batch with Image From Batch."
        )
    if keep != AUTO:
        return replace(config, keep=Keep(keep))
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    return fitting(host, latent_size(host, image.shape[1:3]), config, steps, free)


def start_latent(model: Any, template: Template) -> dict[str, Tensor]:
    """LATENT from which a sampler without noise of its own starts at the template's."""
    sampling = model.get_model_object("model_sampling")
    share = picture_scale(sampling, float(template.sigmas[0]))
    return latent_of(model, template.trajectory[:1] / share)


def compared(template: Template) -> Tensor:
    """[H, W, 3] the picture next to its reconstruction."""
    caption = f"reconstructed at {template.psnr:.1f} dB"
    return sample_strip([template.image, template.reconstruction], ["template", caption])


def describe_template(template: Template) -> str:
    """Report of an inversion."""
    stored = template.feature_bytes() / 2**20
    features = f"stores {stored:,.1f} MiB of features of {len(template.features)} steps"
    if not template.features:
        features = "stores no features; the fuser recomputes them"
    verdict = "" if template.psnr >= 30 else "; below 30 dB the layout may drift: raise refinements"
    return "\n".join(
        [
            f"reconstruction: {template.psnr:.1f} dB{verdict}",
            f"{template.steps} steps from sigma {float(template.sigmas[0]):.3g}; {features}",
            _described(template),
        ]
    )


def _described(template: Template) -> str:
    """Which features come from which blocks."""
    blocks = template.blocks
    content, relations = (
        ", ".join(map(str, numbers)) or "none" for numbers in (blocks.resnets, blocks.attentions)
    )
    if template.is_joint:
        return f"values of the picture in blocks {content}; its keys in blocks {relations}"
    if template.is_flat:
        return (
            f"values of self-attention in blocks {content}; queries and keys in blocks {relations}"
        )
    return f"ResNet blocks {content}; self-attention blocks {relations}"
