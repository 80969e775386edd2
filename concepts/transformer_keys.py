"""How programs name the layers of diffusion transformers in LoRA files.

Trainers write the checkpoint's names, ComfyUI's or diffusers', with dots (PEFT, diffusers,
ai-toolkit, diffusion-pipe, SimpleTuner) or with underscores (kohya's tools, LyCORIS, OneTrainer),
and each has a prefix of its own. Every combination is read, also those that a host leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..host.families.anima import ADAPTER
from ..host.families.family import TRANSFORMER, Family
from ..host.families.registry import named

Target = str | tuple[str, ...]  # a weight, or several that a file has in one layer, row by row
_DOTTED = (
    *("", "diffusion_model.", "model.diffusion_model.", "transformer.", "unet.", "net."),
    *("base_model.model.", "base_model.model.diffusion_model.", "transformer.base_model.model."),
    "diffusion_model.base_model.model.",
)
_FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")
_WEIGHT = ".weight"


def transformer_key_map(weight_names: Iterable[str], family: str) -> dict[str, Target]:
    """A file's name of a module -> its weights, for everything in a base model.

    Args:
        weight_names: canonical, of network and text encoders.
        family: its name.
    """
    table, known = named(family), dict[str, Target]()
    weights = [name for name in weight_names if name.endswith(_WEIGHT)]
    for weight in weights:
        network, _, path = weight.removesuffix(_WEIGHT).partition(".")
        names = _names(table, path) if network == TRANSFORMER else _text_names(network, path)
        for name in names:
            known.setdefault(name, weight)
    for whole, parts in _fused(table, weights).items():
        for name in _spelt([whole]):
            known[name] = parts
    return known


def _names(family: Family, path: str) -> Iterator[str]:
    comfy, part = family.comfy_name(path)
    paths = [path, *([comfy] if part is None else [])]
    if family.part_of(path) is not None:
        paths.append(family.diffusers_name(path))
    elif path.startswith(f"{ADAPTER}."):
        paths.append(f"text_conditioner.{path.removeprefix(f'{ADAPTER}.')}")
    return _spelt(paths)


def _spelt(paths: Iterable[str]) -> Iterator[str]:
    for path in dict.fromkeys(paths):
        yield from (f"{start}{path}" for start in _DOTTED)
        yield from (f"{start}{path.replace('.', '_')}" for start in _FLAT)


def _fused(family: Family, weights: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """ComfyUI's path of a layer that holds several -> their weights, in the order of its rows."""
    parts: dict[str, dict[int, str]] = {}
    for weight in weights:
        network, _, path = weight.removesuffix(_WEIGHT).partition(".")
        comfy, number = family.comfy_name(path)
        if network == TRANSFORMER and number is not None:
            parts.setdefault(comfy, {})[number] = weight
    return {whole: tuple(rows[n] for n in sorted(rows)) for whole, rows in parts.items()}


def _text_names(encoder: str, path: str) -> Iterator[str]:
    inner = path.removeprefix("model.")
    yield f"text_encoders.{encoder}.transformer.{path}"
    for one in dict.fromkeys((path, inner)):
        yield f"text_encoder.{one}"
        yield f"lora_te_{one.replace('.', '_')}"
        yield f"lora_te1_{one.replace('.', '_')}"
