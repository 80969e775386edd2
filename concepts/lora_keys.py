"""How the common programs name the modules of a model in LoRA files; here, of Stable Diffusion.

kohya's tools write `lora_unet_<path>` with diffusers' or the original path, LyCORIS and SimpleTuner
`lycoris_<path>`, diffusers and PEFT dotted paths (older ones with `processor` in them), OneTrainer
kohya's names, ComfyUI's own trainer the original dotted path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ..host.families.family import TRANSFORMER
from ..host.families.unet_names import Layout, diffusers_prefixes, with_prefix
from ..host.ports import Place, UNetSites
from .transformer_keys import Target, transformer_key_map

_WEIGHT = ".weight"
_PROJECTION = "text_projection"


def key_map(
    weight_names: Iterable[str], sites: UNetSites, encoders: Collection[str]
) -> dict[str, Target]:
    """A file's name of a module -> canonical name of its weight, for everything in a base model.

    Args:
        weight_names: canonical, of network and text encoders.
        sites: of its network.
        encoders: all text encoders of the base model.
    """
    if sites.network == TRANSFORMER:
        return transformer_key_map(weight_names, sites.family)
    prefixes = diffusers_prefixes(layout_of(sites))
    known: dict[str, Target] = {}
    for name in weight_names:
        network, _, rest = name.partition(".")
        path = rest.removesuffix(_WEIGHT)
        if path == rest:
            continue  # biases go by the name of their module
        names = (
            _unet_names(path, prefixes)
            if network == "unet"
            else _text_names(network, path, encoders)
        )
        for other in names:
            known.setdefault(other, name)
    return known


def layout_of(sites: UNetSites) -> Layout:
    """What the names of a UNet depend on."""
    down = [site for site in sites.resnets if site.place is Place.DOWN]
    factors = sorted({site.downsample for site in down})
    attention = tuple(bool(sites.at_downsample(factor, [Place.DOWN])) for factor in factors)
    return Layout(attention, sum(site.downsample == factors[0] for site in down))


def _unet_names(path: str, prefixes: object) -> Iterator[str]:
    yield f"lora_unet_{_flat(path)}"
    yield f"diffusion_model.{path}"
    try:
        other = with_prefix(path, prefixes)  # type: ignore[arg-type]
    except KeyError:
        return
    yield f"lora_unet_{_flat(other)}"
    yield f"lycoris_{_flat(other)}"
    for start in ("", "unet.", "base_model.model.", "unet.base_model.model."):
        yield f"{start}{other}"
    older = other.replace(".to_", ".processor.to_").removesuffix(".0") if ".to_" in other else ""
    if older:
        yield older
        yield f"unet.{older}"


def _text_names(encoder: str, path: str, encoders: Collection[str]) -> Iterator[str]:
    yield f"text_encoders.{encoder}.transformer.{path}"
    second = encoder == "clip_g" and "clip_l" in encoders
    if path.startswith(_PROJECTION):
        yield f"lora_te{2 if second else 1}_{_PROJECTION}"
    elif second:
        yield f"lora_te2_{_flat(path)}"
        yield from _dotted("text_encoder_2", path)
    else:
        yield f"lora_te_{_flat(path)}"
        yield f"lora_te1_{_flat(path)}"
        yield from _dotted("text_encoder", path)


def _dotted(start: str, path: str) -> Iterator[str]:
    """As PEFT writes it: the text model is a part of its own up to transformers 4, no more in 5."""
    yield f"{start}.{path}"
    yield f"{start}.{path.removeprefix('text_model.')}"


def _flat(path: str) -> str:
    return path.replace(".", "_")
