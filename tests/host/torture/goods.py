"""For every node inputs that it takes: what bad ones are put among, one or two at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy_api.latest import io
from executor import PREFIX, given, pack_nodes
from materials import (
    concept,
    conditioning,
    image,
    latent,
    mask,
    prior,
    scene,
    template,
    vqa,
    with_regions,
)
from tiny_models import graph_of

# Few steps, small pictures, no previews: what a case costs is what the suite costs.
CHEAP: dict[str, Any] = {
    "steps": 2,
    "token_steps": 1,
    "weight_steps": 1,
    "read_steps": 1,
    "views": 1,
    "prior_pictures": 1,
    "prior_sampling_steps": 1,
    "prior_steps": 2,
    "preview_every": 0,
    "preview_steps": 1,
    "batch_size": 1,
    "harmonise_steps": 0,
    "base_steps": 1,
    "refinements": 0,
    "rank": 2,
    "look_every": 1,
    "gallery": "a photo of a {concept}",
    "templates": "a photo of a {concept}",
    "resolution_px": 0,
    "checkpointing": False,
    "random_scale": False,
    "size": 32,
}
WORDS = "a photo of a <my-cat> cat"
OF_NODE: dict[str, dict[str, Any]] = {
    "LoadConcept": {"concept_name": "good.safetensors"},
    "LoadLoraLocalized": {"lora_name": "good.safetensors", "words": "cat"},
    "ImportLora": {"lora_name": "good.safetensors", "words": "cat"},
    "LagSampler": {"positive": WORDS},
    "LagMaps": {"prompt": WORDS},
    "MaskedBlendedSampler": {"start": 0},
    "MaskedBlendedEdit": {"start": 0},
    "AttentionMaps": {"prompt": "a photo of a cup", "words": "cup", "timesteps": "400"},
    "TrainPersonalizedResiduals": {"batch_size": 1},
    "SaveConcept": {"overwrite": True},
    "ExportConcept": {"overwrite": True},
    "LoadDiffusionPrior": {"prior": "prior", "decoder": "decoder", "size": 64},
    "LoadBlip2": {"model_folder": "blip2"},
    "AdaptiveNegativesTrainer": {"category": "object"},
    "ConceptMixing": {"words": "mug: 1\nfish: 1"},
    "EvolveConcepts": {"first_word": "object"},
    "GenerateWithPrior": {"prompt": "a photo of a mug"},
    "RoIMatching": {"object_word": "cat"},
    "TinyWorldScene": {"size": 64},
    "TinyWorldOrnament": {"size": 64},
}
# Without installed models and without a network these can only say so.
WITHOUT_RESULT = {"SegmentByText", "DownloadLabModel", "DownloadSegmenter"}
# and this one without a picture that its model has drawn
WITHOUT_RESULT |= {"LocalizedLoraMasks"}
LAB = {  # need diffusers
    "LoadDiffusionPrior", "AdaptiveNegativesTrainer", "ConceptMixing", "EvolveConcepts",
    "GenerateWithPrior",
}  # fmt: skip
# The model only helps there.
PLAIN_WITHOUT = {
    "ConceptScene",
    "SoftMaskBuilder",
    "ConceptBank",
    "LoadDiffusionPrior",
}


def good_values(kind: str, name: str) -> Any:
    """A value for a socket: a pure function of node and socket, dear ones are made once."""
    match name:
        case "model" | "clip" | "vae" | "base_model" if kind not in PLAIN_WITHOUT:
            return getattr(graph_of("sd1"), "model" if name == "base_model" else name)
        case "masks.mask0" if kind in ("ConceptScene", "Regions"):
            return mask(count=2)
        case "images" if kind == "ConceptDiscovery":
            return image(count=2)
        case "concepts.concept0" | "concepts.concept1" if kind == "Regions":
            return concept("sd1", "my-cup" if name[-1] == "0" else "my-toys", ".attn2.to_k.weight")
        case _:
            return None


def of_type(kind: str) -> Any:
    """A value for every other socket of a type."""
    makers = {
        "IMAGE": image,
        "MASK": mask,
        "LATENT": lambda: {"samples": latent()},
        "CONDITIONING": conditioning,
        "CONCEPT": concept,
        "CONCEPT_SCENE": scene,
        "TEMPLATE": template,
        "REGIONS": with_regions,
        "PRIOR": prior,
        "VQA": vqa,
    }
    return makers[kind]()


def flat_inputs(kind: str) -> Iterator[tuple[str, io.Input]]:
    """Every plain input of a node; lists that grow give their first two, choices their first."""
    for one in schema_of(kind).inputs:
        if isinstance(one, io.Autogrow.Input):
            for number in range(2):
                template_ = one.template
                yield f"{one.id}.{template_.prefix}{number}", template_.input
        elif not isinstance(one, io.DynamicCombo.Input):
            yield one.id, one


def choices(kind: str) -> tuple[str, dict[str, list[io.Input]]] | None:
    """The input whose value decides on further ones, and those; at most one per node."""
    for one in schema_of(kind).inputs:
        if isinstance(one, io.DynamicCombo.Input):
            return one.id, {option.key: option.inputs for option in one.options}
    return None


def schema_of(kind: str) -> io.Schema:
    return pack_nodes()[PREFIX + kind].GET_SCHEMA()


def default_of(kind: str, name: str, one: io.Input) -> Any:
    """What a widget holds in the cheap and good case."""
    wanted = OF_NODE.get(kind, {})
    if name in wanted:
        return wanted[name]
    if name in CHEAP and type(CHEAP[name]) is type(getattr(one, "default", None)):
        return CHEAP[name]
    if getattr(one, "default", None) is not None:
        return one.default
    return one.options[0] if isinstance(one, io.Combo.Input) else ""


def kinds() -> list[str]:
    """Every node of the pack, without the prefix of its id."""
    return [name.removeprefix(PREFIX) for name in pack_nodes()]


def is_widget(one: io.Input) -> bool:
    return isinstance(one, io.WidgetInput)


# What is drawn with the result of a node that only prepares drawing.
PROMPT = {"ApplyConcept": WORDS, "ApplyLag": WORDS, "CrossAttentionGuidance": "a photo of a cup"}


def sampled_with(kind: str, place: str) -> tuple[dict[str, Any], dict[str, list]]:
    """Nodes of the host that draw two steps with what a node gives, and what to keep of them."""
    empty = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 32, "height": 32, "batch_size": 1},
    }
    if kind in PROMPT:
        return {
            "positive": _encode([place, 1], PROMPT[kind]),
            "negative": _encode([place, 1], ""),
            "empty": empty,
            "draw": {
                "class_type": "KSampler",
                "inputs": {
                    "model": [place, 0], "positive": ["positive", 0], "negative": ["negative", 0],
                    "latent_image": ["empty", 0], "seed": 0, "steps": 2, "cfg": 3.0,
                    "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
                },
            },
        }, {"drawn": ["draw", 0]}  # fmt: skip
    if kind == "RegionFeatureFuser":
        return {
            "sampler": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
            "draw": {
                "class_type": "SamplerCustom",
                "inputs": {
                    "model": [place, 0], "positive": [place, 1], "negative": [place, 2],
                    "latent_image": [place, 3], "sigmas": [place, 4], "sampler": ["sampler", 0],
                    "add_noise": False, "noise_seed": 0, "cfg": 3.0,
                },
            },
        }, {"drawn": ["draw", 0]}  # fmt: skip
    if kind == "MaskedBlendedSampler":
        return {
            "schedule": {
                "class_type": "BasicScheduler",
                "inputs": {
                    "model": given("the-model"), "scheduler": "normal", "steps": 2, "denoise": 1.0
                },
            },
            "draw": {
                "class_type": "SamplerCustom",
                "inputs": {
                    "model": given("the-model"), "positive": given("the-positive"),
                    "negative": given("the-positive"), "latent_image": given("the-latent"),
                    "sigmas": ["schedule", 0], "sampler": [place, 0], "add_noise": True,
                    "noise_seed": 0, "cfg": 3.0,
                },
            },
        }, {"drawn": ["draw", 0]}  # fmt: skip
    return {}, {}


def tail_values(kind: str) -> dict[str, Any]:
    """Values for the host's nodes of `sampled_with`."""
    if kind != "MaskedBlendedSampler":
        return {}
    return {
        "the-model": graph_of("sd1").model,
        "the-positive": conditioning(),
        "the-latent": {"samples": latent()},
    }


def _encode(clip: list, text: str) -> dict[str, Any]:
    return {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": text}}
