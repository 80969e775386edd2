"""LoRA files of models/loras for the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..attention.local_setup import shapes_of
from ..concepts.lora_file import LoraFile, lora_of, read_lora
from ..concepts.lora_keys import key_map
from ..concepts.lora_metadata import LoraWords, words_of
from ..errors import ConceptFileError
from ..host.comfyui.lora import converted, host_key_map
from .shared import CATEGORY, host_of

LORAS = "loras"
LORA_CATEGORY = f"{CATEGORY}/LoRA"
SHIPPED = Path(__file__).parents[1] / "workflows" / "loras"  # what our workflows load


def register_shipped_loras() -> None:
    """Let every loader list the LoRAs of our workflows, behind the user's own folders."""
    folder_paths.add_model_folder_path(LORAS, str(SHIPPED))


@dataclass(frozen=True, slots=True)
class LoadedLora:
    """A file of models/loras.

    Attributes:
        file: its changes, for one base model.
        words: what it says about itself.
        metadata: the whole of it.
        path: where it lies.
    """

    file: LoraFile
    words: LoraWords
    metadata: Mapping[str, str]
    path: Path


def lora_inputs() -> list[io.Input]:
    """A base model and the list of files."""
    return [
        io.Model.Input(
            "model", tooltip="A model of the same family as the one that the LoRA was trained on."
        ),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
        io.Combo.Input(
            "lora_name",
            options=folder_paths.get_filename_list(LORAS),
            tooltip="LoRA, LoCon, LoHa, LoKr, GLoRA, DoRA, OFT, BOFT or full difference, "
            ".safetensors.",
        ),
    ]


def lora_path(name: str) -> Path:
    """The file of a LoRA that a list offered; checked again, because a saved graph can name any."""
    known = folder_paths.get_filename_list(LORAS)
    path = folder_paths.get_full_path(LORAS, name) if name in known else None
    if path is None:
        raise ConceptFileError(
            f"There is no LoRA {name!r} in models/{LORAS}; refresh the lists (key R) if it is new."
        )
    return Path(path)


def lora_stamps(name: str | None) -> str:
    """Detects a changed file under the same name; linked inputs are None."""
    names = folder_paths.get_filename_list(LORAS) if name is None else [name]
    return repr([(name, lora_path(name).stat().st_mtime_ns) for name in names])


def loaded_lora(model: Any, clip: Any, name: str) -> LoadedLora:
    """A file of models/loras for these models.

    Raises:
        ConceptFileError, BaseMismatchError: see `errors`.
    """
    path = lora_path(name)
    tensors, metadata = read_lora(path)
    host = host_of(model, clip, applies_only=True)
    known = set(host.weight_names())
    hosts_own = host_key_map(model, clip, host.sites.network)
    names = key_map(known, host.sites, host.encoders)
    names |= {other: weight for other, weight in hosts_own.items() if weight in known}
    file = lora_of(converted(tensors, name), names, shapes_of(host, known), name)
    return LoadedLora(file, words_of(metadata), metadata, path)
