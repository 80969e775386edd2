"""LoRA files in ComfyUI: its module names, its own merge, and its memory management."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...errors import ConceptFileError, ModelError

_NETWORK, _TRANSFORMER = "diffusion_model.", ".transformer."


def converted(tensors: Mapping[str, Tensor], what: str = "The LoRA") -> dict[str, Tensor]:
    """A file's tensors after what the host does to layouts of single programs.

    Raises:
        ConceptFileError: the host cannot, because the file is damaged.
    """
    try:
        return comfy.lora_convert.convert_lora(dict(tensors))
    except Exception as error:
        raise ConceptFileError(
            f"{what} cannot be read as a LoRA: ComfyUI could not convert its layout "
            f"({type(error).__name__}). The file is damaged; download it again."
        ) from error


def host_key_map(model: Any, clip: Any, network: str = "unet") -> dict[str, str]:
    """A file's name of a module -> canonical name of its weight, as core's Load LoRA has it.

    Args:
        network: what canonical names of the MODEL's weights begin with.
    """
    keys: dict[str, Any] = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
    return {
        name: _canonical(key, network)
        for name, key in keys.items()
        if isinstance(key, str) and key.endswith(".weight")
    }


def _canonical(key: str, network: str) -> str:
    if key.startswith(_NETWORK):
        return f"{network}.{key.removeprefix(_NETWORK)}"
    return key.replace(_TRANSFORMER, ".", 1)


# Names of the parts of an entry in a file, where they differ from ours.
_SUFFIXES = {"up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight"}


def core_difference(parts: Mapping[str, Tensor], weight: Tensor, strength: float) -> Tensor:
    """W' - W of an entry as core merges it, float32.

    Raises:
        ModelError: core does not know such an entry, or could not merge it.
    """
    entry = {f"x.{_SUFFIXES.get(part, part)}": tensor for part, tensor in parts.items()}
    loaded = comfy.lora.load_lora(entry, {"x": "x.weight"}, log_missing=False)
    patch = loaded.get("x.weight")
    before = weight.float()
    after = before.clone()
    if patch is not None:
        after = comfy.lora.calculate_weight([(strength, patch, 1.0, None, None)], after, "x.weight")
    if patch is None or (strength and torch.equal(after, before)):
        raise ModelError(
            f"ComfyUI could not merge an entry of the LoRA ({', '.join(sorted(parts))}) into a "
            f"weight of {'x'.join(map(str, weight.shape))}; the file may be damaged."
        )
    return after - before


class LoadedBeside:
    """Tensors that the host loads together with a MODEL, and makes room for."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._holder = nn.ParameterList()

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor, in the precision of the UNet, which the host moves in place."""
        parameter = nn.Parameter(tensor.detach().to(self._dtype), requires_grad=False)
        self._holder.append(parameter)
        return parameter

    def patcher(self) -> Any:
        """For `set_additional_models` of a MODEL."""
        management = comfy.model_management
        return comfy.model_patcher.ModelPatcher(
            self._holder, management.get_torch_device(), management.unet_offload_device()
        )
