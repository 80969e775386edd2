"""What good inputs are made of: small, the same on every call, and made once where that is dear."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.sd
import torch
from comfy import model_patcher, supported_models
from executor import Executor, given, node, pack_nodes
from tiny_models import DDCONFIG, SD1_UNET, TinySD1, graph_of, random_state

SIDE = 32  # px
SENTENCE = "a photo of a circle and a square"
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32,
    "context_in_dim": 64, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 4, "depth": 1,
    "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip


def pack(name: str) -> Any:
    """A module of the pack as ComfyUI loaded it: its classes are not those of `conceptloom`."""
    root = sys.modules[pack_nodes()["ConceptLoomRegions"].__module__].__package__.rpartition(".")[0]
    return importlib.import_module(f"{root}.{name}")


def image(height: int = SIDE, width: int = SIDE, channels: int = 3, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, height, width, channels, generator=generator)


def mask(height: int = SIDE, width: int = SIDE, count: int = 1) -> torch.Tensor:
    """Squares beside each other, [count, H, W]."""
    found, step = torch.zeros(count, height, width), width // count
    for i in range(count):
        found[i, height // 8 : -height // 8, i * step + 1 : (i + 1) * step - 1] = 1
    return found


def latent(
    height: int = SIDE // 8, width: int = SIDE // 8, channels: int = 4, count: int = 1
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, channels, height, width, generator=generator)


def conditioning(family: str = "sd1", width: int = 0) -> Any:
    """CONDITIONING of a prompt, or random of another width."""
    if width:
        return [[torch.randn(1, 77, width, generator=torch.Generator().manual_seed(0)), {}]]
    clip = graph_of(family).clip
    return clip.encode_from_tokens_scheduled(clip.tokenize("a photo of a cup"))


def scene(side: int = SIDE, count: int = 2) -> Any:
    words = {"my-mug": "cup", "my-toy": "toy"}
    words = {name: words[name] for name in list(words)[:count]}
    rows = mask(side, side, count)
    named = {name: [row] for name, row in zip(words, rows, strict=True)}
    return pack("scenes.scene").make_scene(list(image(side, side)), named, words)


@functools.cache
def concept(family: str = "sd1", name: str = "my-cat", parts: str = ".proj_out.weight") -> Any:
    """A concept with its handle: residuals on the output projections, or other weights."""
    host = pack("host.comfyui.host").ComfyHost(*vars(graph_of(family)).values())
    concepts = pack("concepts.concept")
    generator = torch.Generator().manual_seed(len(name))
    weights: dict[str, Any] = {}
    for weight in host.weight_names():
        if not (weight.startswith("unet.") and weight.endswith(parts)):
            continue
        shape = host.weight(weight).shape
        rows, columns = shape[0], shape[1:].numel()
        if parts == ".proj_out.weight":
            up, down = (
                0.1 * torch.randn(size, generator=generator) for size in ((rows, 2), (2, columns))
            )
            weights[weight] = concepts.LowRank(up=up, down=down, scale=1.0)
        else:
            weights[weight] = concepts.Diff(0.1 * torch.randn(shape, generator=generator))
    vectors = {e: torch.randn(1, width, generator=generator) for e, width in host.encoders.items()}
    return concepts.Concept(
        handles={name: vectors},
        weights=weights,
        base=host.fingerprint,
        method="personalized_residuals",
        words={name: "cat"},
        prompts=(f"a photo of a <{name}> cat",),
        recipe={},
    )


@functools.cache
def inpainting() -> Any:
    """A MODEL that takes mask and masked picture beside its latents."""
    return _model_of(TinySD1(SD1_UNET | {"in_channels": 9}), inpaints=True)


@functools.cache
def transformer() -> Any:
    """A MODEL of Flux's class: nothing that the pack works inside of."""
    return _model_of(supported_models.Flux(dict(FLUX)))


def _model_of(config: Any, inpaints: bool = False) -> Any:
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    network = config.get_model({}, "", device=cpu)
    if inpaints:
        network.set_inpaint()
    state = random_state(network.diffusion_model, torch.Generator().manual_seed(1))
    patcher = model_patcher.CoreModelPatcher(network, cpu, cpu)
    network.load_model_weights(state, "", assign=patcher.is_dynamic())
    return patcher


@functools.cache
def another_vae(channels: int) -> Any:
    config = dict(DDCONFIG, z_channels=channels)
    shell = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=dict(config), embed_dim=channels)
    return comfy.sd.VAE(
        sd=random_state(shell, torch.Generator().manual_seed(1)),
        config={"params": {"ddconfig": config, "embed_dim": channels}},
        dtype=torch.float32,
    )


@functools.cache
def template(family: str = "sd1", side: int = SIDE) -> Any:
    models = vars(graph_of(family))
    inputs = {
        **{name: given(name) for name in models}, "image": given("image"), "prompt": SENTENCE,
        "steps": 2, "scheduler": "ddim_uniform", "refinements": 0, "keep": "RAM",
        "resnet_until": 0.8, "attention_until": 0.5, "resnet_blocks": "", "attention_blocks": "",
    }  # fmt: skip
    values = {**models, "image": image(side, side)}
    return _made({"1": node("InvertTemplate", **inputs)}, values)


@functools.cache
def with_regions(side: int = SIDE, family: str = "sd1") -> Any:
    inputs = {
        "concepts__concept0": given("one"), "concepts__concept1": given("two"),
        "masks__mask0": given("masks"), "sentence": SENTENCE, "words": "circle\nsquare",
        "background": "", "dilate": 0.02, "priority": "first",
    }  # fmt: skip
    values = {
        "one": concept(family, "my-cup", ".attn2.to_k.weight"),
        "two": concept(family, "my-toys", ".attn2.to_k.weight"),
        "masks": mask(side, side, 2),
    }
    return _made({"1": node("Regions", **inputs)}, values)


@functools.cache
def tinyworld() -> dict[str, Any]:
    """MODEL, CLIP and VAE of the bundled checkpoint."""
    graph = {"1": node("TinyWorldCheckpoint")}
    wanted = {name: ["1", i] for i, name in enumerate(("model", "clip", "vae"))}
    return Executor().run(graph, {}, **wanted).values


@functools.cache
def prior(kind: str = "prior") -> Any:
    """A PRIOR of the tiny folders that `lab_folders` wrote, or of the space of texts."""
    of_texts = kind != "prior"
    inputs = {
        "prior": kind, "decoder": "none" if of_texts else "decoder", "precision": "full",
        "steps": 2, "cfg": 3.0, "size": 64,
    }  # fmt: skip
    models = vars(graph_of("sd1")) if of_texts else {}
    links = {name: given(name) for name in models}
    return _made({"1": node("LoadDiffusionPrior", **inputs, **links)}, models)


@functools.cache
def vqa() -> Any:
    return _made({"1": node("LoadBlip2", model_folder="blip2", precision="full")}, {})


def lab_folders(models: Path) -> None:
    """Random networks of the real classes, as small as they can be."""
    sys.path.append(str(Path(__file__).parents[2]))
    from unit.vision.tiny_files import save_blip2, save_decoder_22, save_prior

    with torch.inference_mode(False):
        save_prior(models / "diffusion_priors" / "prior")
        save_decoder_22(models / "diffusion_priors" / "decoder")
        save_blip2(models / "vqa" / "blip2")


def _made(graph: dict[str, Any], values: dict[str, Any]) -> Any:
    result = Executor().run(graph, values, made=["1", 0])
    assert result.error == "", result.error
    return result.values["made"]
