"""Facts that a single-file checkpoint states, and whether a layout folder agrees.

Shapes, markers and metadata belong to the weights; the layout is only a folder of JSON files that
somebody picked. So the file wins where it speaks, and where both cannot be true nothing is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ...errors import ModelError, UnsupportedModelError

UNET = "model.diffusion_model."
FAMILIES = {768: "Stable Diffusion 1.x", 1024: "2.x", 1280: "the XL refiner", 2048: "XL"}
INPUTS = {8: "editing by instructions", 9: "inpainting"}
EPSILON, VELOCITY = "epsilon", "v_prediction"
_PREDICTIONS = {
    **dict.fromkeys(("epsilon", "eps"), EPSILON),
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "v_pred", "velocity"), VELOCITY),
}
_V_ARCHITECTURE = "stable-diffusion-v2-768-v"
_CONTINUOUS = ("edm_mean", "edm_vpred.sigma_max")  # Playground 2.5, CosXL: no table of noise levels


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """Facts of one .safetensors file in the original layout.

    Attributes:
        shapes: what is counted -> its size, as far as the file shows it.
        prediction: "epsilon" or "v_prediction"; None where the file does not say.
        source: where it says so, for messages.
        has_zero_snr: whether it is marked as learned on a schedule that ends in pure noise.
    """

    shapes: Mapping[str, int]
    prediction: str | None
    source: str
    has_zero_snr: bool


def file_facts(path: Path) -> FileFacts:
    """Facts of a file; reads its header only.

    Raises:
        ModelError: it is no safetensors file, or holds no UNet in the original layout.
        UnsupportedModelError: it says that it predicts something else than noise or velocity.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} could not be read as a base model: {error}") from error
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise ModelError(
            f"{path} contains no UNet in the original layout of Stable Diffusion (no "
            f"{UNET}input_blocks.0.0.weight). Load a complete checkpoint of the families 1.x, "
            "2.x or XL."
        )
    if lost := [marker for marker in _CONTINUOUS if marker in shapes]:
        raise UnsupportedModelError(
            f"{path} is marked {lost[0]}: its noise levels are continuous (EDM). ConceptLoom's "
            "Python host supports discrete levels; load the plain checkpoint of the family."
        )
    prediction, source = _prediction(path, shapes, metadata)
    return FileFacts(
        shapes=_unet_sizes(shapes),
        prediction=prediction,
        source=source,
        has_zero_snr="ztsnr" in shapes and prediction == VELOCITY,  # noise itself: nothing to see
    )


def _unet_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    first = shapes[f"{UNET}input_blocks.0.0.weight"]
    sizes = {"input channels": first[1], "channels of the first layer": first[0]}
    contexts = [
        s[1] for n, s in shapes.items() if n.startswith(UNET) and n.endswith("attn2.to_k.weight")
    ]
    if contexts:
        sizes["width of prompts"] = contexts[0]
        sizes["number of cross-attentions"] = len(contexts)
    sizes["width of size conditions"] = shapes.get(f"{UNET}label_emb.0.0.weight", (0, 0))[1]
    return sizes


def _prediction(
    path: Path, names: Mapping[str, Any], metadata: Mapping[str, str]
) -> tuple[str | None, str]:
    """What it predicts, and where that stands. A marker counts more than metadata that a merge
    may have carried along; ComfyUI goes by the marker, too."""
    if "v_pred" in names:
        return VELOCITY, "its marker v_pred"
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):
        if word := metadata.get(key, "").strip().lower():
            if word not in _PREDICTIONS:
                raise UnsupportedModelError(
                    f"{path} predicts {word!r} according to {key}; ConceptLoom supports noise "
                    "(epsilon) and velocity (v)."
                )
            return _PREDICTIONS[word], f"its metadata {key}"
    if metadata.get("modelspec.architecture", "").split("/")[0] == _V_ARCHITECTURE:
        return VELOCITY, "its metadata modelspec.architecture"
    return None, ""


def check_layout(path: Path, layout: Path) -> FileFacts:
    """Facts of a file, whose shapes a folder in diffusers format has to share.

    Raises:
        ModelError: they disagree, or see `file_facts`.
    """
    facts = file_facts(path)
    of_layout = _layout_sizes(_json(layout / "unet" / "config.json"))
    for what, size in facts.shapes.items():
        theirs = of_layout.get(what)
        if theirs is not None and theirs != size:
            raise ModelError(
                f"{path.name} and the layout {layout} disagree on the {what}: "
                f"{_describe(what, size)} in the file, {_describe(what, theirs)} in the folder. "
                "Pass --layout a folder of the same family and kind as the file."
            )
    return facts


def _layout_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """The same sizes of a UNet's JSON, as far as it tells them plainly."""
    blocks = config.get("block_out_channels") or [None]
    sizes = {
        "input channels": config.get("in_channels"),
        "channels of the first layer": blocks[0],
        "width of prompts": config.get("cross_attention_dim"),
        "number of cross-attentions": _cross_attentions(config),
        "width of size conditions": config.get("projection_class_embeddings_input_dim") or 0,
    }
    return {what: size for what, size in sizes.items() if isinstance(size, int)}


def _cross_attentions(config: Mapping[str, Any]) -> int | None:
    """How many transformer blocks a UNet has; None where depths are told block by block."""
    down, up = config.get("down_block_types", []), config.get("up_block_types", [])
    layers, depth = config.get("layers_per_block", 2), config.get("transformer_layers_per_block", 1)
    depths = depth if isinstance(depth, list) else [depth] * len(down)
    if not down or not all(isinstance(n, int) for n in (layers, *depths)):
        return None
    count = depths[-1] if "CrossAttn" in (config.get("mid_block_type") or "CrossAttn") else 0
    count += sum(layers * n for name, n in zip(down, depths, strict=False) if "CrossAttn" in name)
    rising = zip(up, reversed(depths), strict=False)
    return count + sum((layers + 1) * n for name, n in rising if "CrossAttn" in name)


def with_facts(scheduler: Any, facts: FileFacts) -> tuple[Any, str]:
    """The layout's scheduler with what the file says, and a line about what it overruled, or ""."""
    from diffusers import DDIMScheduler

    config = scheduler.config
    overruled: dict[str, Any] = {}
    if facts.prediction and facts.prediction != config.get("prediction_type", EPSILON):
        overruled["prediction_type"] = facts.prediction
    if facts.has_zero_snr and not config.get("rescale_betas_zero_snr", False):
        overruled["rescale_betas_zero_snr"] = True
    if not overruled:
        return scheduler, ""
    statements = {
        "prediction_type": f"it predicts {facts.prediction} ({facts.source})",
        "rescale_betas_zero_snr": "its noise levels end in pure noise (its marker ztsnr)",
    }
    line = " and that ".join(statements[name] for name in overruled)
    # DDIM's class takes every setting of noise levels; which class it is matters to nobody here.
    return DDIMScheduler.from_config(config, **overruled), f"says that {line}; its layout does not"


def _describe(what: str, size: int) -> str:
    kinds = {"width of prompts": FAMILIES, "input channels": INPUTS}.get(what, {})
    return f"{size} ({kinds[size]})" if size in kinds else str(size)


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} could not be read: {error}") from error
    return read if isinstance(read, dict) else {}
