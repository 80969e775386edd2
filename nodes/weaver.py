"""Region Feature Fuser, for any sampler, and Weave Concepts, with its own sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from comfy_api.latest import io

from ..attention.injection import Features
from ..attention.region_edits import region_edits
from ..concepts.fingerprints import model_digest
from ..host.comfyui.edits import SamplingRun, with_edits
from ..host.comfyui.extra_pass import ExtraForward
from ..host.comfyui.host import ComfyHost
from ..host.comfyui.progress import NodeProgress
from ..host.comfyui.sampling import conditioning_of, latent_of
from ..host.ports import UNetEdit
from ..methods.concept_weaver import Regions, Template, WeaveConfig, weave
from ..methods.concept_weaver.features import capture_for, injection_of
from ..methods.concept_weaver.regions import sources_of
from ..methods.concept_weaver.template import check_sigmas, check_template
from ..training.setting import changed
from .inputs import model_inputs
from .shared import host_of, shown
from .sockets import RegionsSocket, TemplateSocket
from .template import WEAVER, start_latent
from .widgets import named_widgets, widgets_of

APPLICATION = "conceptloom.weaver"


class RegionFeatureFuser(io.ComfyNode):
    """MODEL + TEMPLATE + REGIONS -> MODEL and CONDITIONING for any sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomRegionFeatureFuser",
            display_name="Region Feature Fuser",
            category=WEAVER,
            description="Draws each region with its own concept in one run of any sampler "
            "(Concept Weaver). One pass serves all concepts: it mixes them in every "
            "cross-attention layer and keeps the template's layout.",
            search_aliases=["concept weaver", "multi concept", "regional", "plug and play", "fuse"],
            inputs=_inputs(),
            outputs=[
                io.Model.Output(
                    "model", tooltip="For the sampler, together with the four outputs below."
                ),
                io.Conditioning.Output(
                    "positive", tooltip="Conditioning of the whole sentence, p_base."
                ),
                io.Conditioning.Output("negative", tooltip="Conditioning of the negative prompt."),
                io.Latent.Output(
                    "latent",
                    tooltip="The template's noise. Disable the sampler's own noise (add_noise).",
                ),
                io.Sigmas.Output(
                    "sigmas", tooltip="The template's noise levels, required by the sampler."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, template: Template, regions: Regions, **settings: Any
    ) -> io.NodeOutput:
        config = changed(WeaveConfig(), settings)
        woven = woven_model(model, clip, template, regions, config)
        prompts = (conditioning_of(clip, text) for text in (regions.sentence, config.negative))
        return io.NodeOutput(woven, *prompts, start_latent(model, template), template.sigmas)


class WeaveConcepts(io.ComfyNode):
    """The whole weave in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomWeaveConcepts",
            display_name="Weave Concepts",
            category=WEAVER,
            description="Region Feature Fuser and its sampler in one node: DDIM at the "
            "template's noise levels. For comparison, it can also mix whole predictions, the "
            "paper's naive baseline.",
            search_aliases=["concept weaver", "multi concept", "regional", "score mixing"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *_inputs(vae=""),
                *named_widgets(WeaveConfig(), "cfg", "mixing"),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The template with your concepts in it."),
                io.Latent.Output(
                    "latent", tooltip="The latents of the picture, for further nodes."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, template: Template, regions: Regions, **settings: Any
    ) -> io.NodeOutput:
        config = changed(WeaveConfig(), settings)
        progress = NodeProgress(cls.hidden.unique_id)
        woven = weave(host_of(model, clip, vae), template, regions, config, progress=progress)
        latent = latent_of(model, woven.latent.cpu())
        return io.NodeOutput(woven.image, latent, ui=shown(cls, woven.image))


def _inputs(vae: str | None = None) -> list[io.Input]:
    return [
        *model_inputs(
            "The model used to invert the template.",
            "Its CLIP, without concepts applied; the regions add them.",
            vae,
        ),
        TemplateSocket.Input("template", tooltip="The inverted picture, from Invert Template."),
        RegionsSocket.Input("regions", tooltip="Concepts and their regions, from Regions."),
        *widgets_of(WeaveConfig(), without=("cfg", "mixing")),
    ]


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
    extra_pass = ExtraForward(cast(ComfyHost, host), template.prompt, template.trajectory[:1].shape)

    def make_edits(run: SamplingRun) -> Sequence[UNetEdit]:
        if run.sigmas is not None:
            check_sigmas(template, run.sigmas, host.noise_path.highest_start)

        def recompute(step: int, resnets: bool, attentions: bool) -> Features:
            capture = capture_for(
                run.sites, template.blocks, resnets=resnets, attentions=attentions
            )
            scale = host.noise_path.input_scale(float(template.sigmas[step]))
            scaled = template.trajectory[step : step + 1].to(host.device) * scale
            extra_pass(run, scaled, template.timesteps[step], [capture])
            return capture.features

        injection = injection_of(
            template,
            recompute,
            resnet_until=config.resnet_until,
            attention_until=config.attention_until,
        )
        return region_edits(run.sites, sources, regions.masks, config.suppression, injection)

    return with_edits(model, APPLICATION, make_edits, replace=True)
