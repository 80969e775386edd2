"""Region Feature Fuser, for any sampler, and Weave Concepts, in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from comfy_api.latest import io

from ..attention.fusion import RegionFusion
from ..attention.injection import Features
from ..concepts.fingerprints import model_digest
from ..host.comfyui.edits import SamplingRun, with_edits
from ..host.comfyui.extra_pass import PassAgain
from ..host.comfyui.host import ComfyHost
from ..host.comfyui.progress import NodeProgress
from ..host.comfyui.sampling import conditioning_of
from ..host.ports import UNetEdit
from ..methods.concept_weaver import Mixing, Regions, Template, WeaveConfig, weave
from ..methods.concept_weaver.features import capture_for, injection_of
from ..methods.concept_weaver.regions import sources_of
from ..methods.concept_weaver.template import check_sigmas, check_template
from .shared import host_of, shown
from .sockets import RegionsSocket, TemplateSocket
from .template import WEAVER, start_latent

APPLICATION = "conceptloom.weaver"


class RegionFeatureFuser(io.ComfyNode):
    """MODEL + TEMPLATE + REGIONS -> MODEL and CONDITIONING for any sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomRegionFeatureFuser",
            display_name="Region Feature Fuser",
            category=WEAVER,
            description="Draws every region by its own concept in one run of any sampler (Concept "
            "Weaver): one pass for all of them, mixed in every cross-attention, with the "
            "template's layout held in place.",
            search_aliases=["concept weaver", "multi concept", "regional", "plug and play", "fuse"],
            inputs=_inputs(),
            outputs=[
                io.Model.Output("model", tooltip="For the sampler, together with the four below."),
                io.Conditioning.Output("positive", tooltip="The whole sentence, p_base."),
                io.Conditioning.Output("negative", tooltip="The negative prompt."),
                io.Latent.Output(
                    "latent",
                    tooltip="The template's noise. Switch the sampler's own noise off (add_noise).",
                ),
                io.Sigmas.Output(
                    "sigmas", tooltip="The template's noise levels; the sampler has to use them."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, template: Template, regions: Regions, suppression: float,
        negative: str, resnet_until: float, attention_until: float,
    ) -> io.NodeOutput:  # fmt: skip
        config = WeaveConfig(
            suppression=suppression,
            negative=negative,
            resnet_until=resnet_until,
            attention_until=attention_until,
        )
        woven = woven_model(model, clip, template, regions, config)
        prompts = (conditioning_of(clip, text) for text in (regions.sentence, negative))
        return io.NodeOutput(woven, *prompts, start_latent(model, template), template.sigmas)


class WeaveConcepts(io.ComfyNode):
    """The whole weave in one piece."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        config = WeaveConfig()
        return io.Schema(
            node_id="ConceptLoomWeaveConcepts",
            display_name="Weave Concepts",
            category=WEAVER,
            description="Region Feature Fuser with its sampler in one piece: DDIM along the "
            "template's own noise levels. Can also mix whole predictions, the paper's naive "
            "baseline, to compare with.",
            search_aliases=["concept weaver", "multi concept", "regional", "score mixing"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *_inputs(vae=True),
                io.Float.Input(
                    "cfg",
                    default=config.cfg,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    tooltip="Guidance, omega of the paper. 1 is none, 7.5 usual, high is harsh.",
                ),
                io.Combo.Input(
                    "mixing",
                    options=[mixing.value for mixing in Mixing],
                    default=config.mixing.value,
                    tooltip="features: one pass for all concepts, mixed inside of the model. "
                    "scores: a whole pass for each, mixed outside, without suppression; slow, and "
                    "edges do not blend.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The template with your concepts in it."),
                io.Latent.Output("latent", tooltip="The same as latents, to go on with."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, template: Template, regions: Regions, mixing: str,
        **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        config = WeaveConfig(mixing=Mixing(mixing), **settings)
        progress = NodeProgress(cls.hidden.unique_id)
        woven = weave(host_of(model, clip, vae), template, regions, config, progress=progress)
        latent = {"samples": model.model.process_latent_out(woven.latent.cpu())}
        return io.NodeOutput(woven.image, latent, ui=shown(cls, woven.image))


def _inputs(*, vae: bool = False) -> list[io.Input]:
    config = WeaveConfig()
    return [
        io.Model.Input("model", tooltip="The model that the template was inverted on."),
        io.Clip.Input("clip", tooltip="Its CLIP, without concepts applied: regions bring them."),
        *([io.Vae.Input("vae", tooltip="The VAE of the same checkpoint.")] if vae else []),
        TemplateSocket.Input("template", tooltip="The inverted picture, from Invert Template."),
        RegionsSocket.Input("regions", tooltip="Concepts and their places, from Regions."),
        io.Float.Input(
            "suppression",
            default=config.suppression,
            min=0.0,
            max=2.0,
            step=0.05,
            tooltip="Pushes away from what the plain sentence would draw (lambda). 0 only mixes, "
            "0.2 sharpens the concepts, much burns colours.",
        ),
        io.String.Input(
            "negative",
            default=config.negative,
            multiline=True,
            dynamic_prompts=True,
            tooltip="What to keep away from. The template's features are put in there too.",
        ),
        _share(
            "resnet_until",
            config.resnet_until,
            "ResNet features hold shapes and places",
        ),
        _share(
            "attention_until",
            config.attention_until,
            "queries and keys hold what belongs together",
        ),
    ]


def _share(name: str, default: float, what: str) -> io.Input:
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip=f"Share of the steps in which the template's {what}. 0 lets the layout go, 1 "
        "copies it to the end and leaves concepts little of their own shape.",
    )


def woven_model(
    model: Any, clip: Any, template: Template, regions: Regions, config: WeaveConfig
) -> Any:
    """A clone of MODEL that injects the template and fuses the regions in every pass.

    Raises:
        ModelError, InputError: template, regions or concepts do not fit the model or each other.
    """
    host = host_of(model, clip)
    check_template(template, host.fingerprint, model_digest(host), regions.size)
    sources = sources_of(host, regions)
    again = PassAgain(cast(ComfyHost, host), template.prompt, template.trajectory[:1].shape)

    def make_edits(run: SamplingRun) -> Sequence[UNetEdit]:
        if run.sigmas is not None:
            check_sigmas(template, run.sigmas)

        def recompute(step: int, resnets: bool, attentions: bool) -> Features:
            capture = capture_for(
                run.sites, template.blocks, resnets=resnets, attentions=attentions
            )
            scale = host.noise_path.input_scale(float(template.sigmas[step]))
            scaled = template.trajectory[step : step + 1].to(host.device) * scale
            again(run, scaled, template.timesteps[step], [capture])
            return capture.features

        injection = injection_of(
            template,
            recompute,
            resnet_until=config.resnet_until,
            attention_until=config.attention_until,
        )
        return [injection, RegionFusion(sources, regions.masks, config.suppression)]

    return with_edits(model, APPLICATION, make_edits, replace=True)
