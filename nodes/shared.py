"""Shared helpers of the nodes: concept files, applying concepts, parsing lines of text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import folder_paths
from comfy_api.latest import ui
from torch import Tensor

from ..concepts.changes import Change, Diff, Kronecker
from ..concepts.concept import Concept, check_applies, identities
from ..concepts.handles import checked_name
from ..errors import ConceptFileError, ConfigError, HandleError
from ..host.comfyui.apply import KroneckerDelta, WeightDelta, apply_concept
from ..host.comfyui.host import ComfyHost
from ..host.comfyui.notices import for_the_editor, with_notices
from ..host.ports import Host
from .concept_folders import CONCEPTS

log = logging.getLogger("conceptloom")

CATEGORY = "ConceptLoom"
LATENT_PX = 8  # pixels per latent of Stable Diffusion, for previews without a VAE


def concept_path(name: str) -> Path:
    """The file of a concept from a list; checked again, because API calls can pass any name."""
    path = folder_paths.get_full_path(CONCEPTS, name) if name in concept_names() else None
    if path is None:
        raise ConceptFileError(
            f"There is no concept {name!r} in models/{CONCEPTS}; save one there with Save Concept, "
            "or refresh the lists (key R) if the file is new."
        )
    return Path(path)


def concept_names() -> list[str]:
    """Names of all concept files, as Load Concept lists them."""
    return folder_paths.get_filename_list(CONCEPTS)


def concept_stamps(names: Iterable[str]) -> list[tuple[str, int, int]]:
    """Name, time and size of concept files, to detect changes."""
    stats = [(name, concept_path(name).stat()) for name in names]
    return [(name, file.st_mtime_ns, file.st_size) for name, file in stats]


def first_folder(kind: str) -> Path:
    """The folder in which new files of a kind are saved: "loras", "embeddings", "concepts"."""
    return Path(folder_paths.get_folder_paths(kind)[0])


def host_of(model: Any, clip: Any, vae: Any = None, *, applies_only: bool = False) -> Host:
    """MODEL, CLIP and VAE of a graph as a `Host`.

    Args:
        applies_only: no training and no noising, so any kind of sampling works.

    Raises:
        ModelError: they are unsupported or do not fit each other.
    """
    return cast(Host, ComfyHost(model, clip, vae, applies_only=applies_only))


def applied(model: Any, clip: Any, concept: Concept, strength: float) -> tuple[Any, Any]:
    """Check that a concept fits, and apply it to clones of MODEL and CLIP."""
    check_applies(concept, host_of(model, clip, applies_only=True).fingerprint)
    deltas, known_as = weight_deltas(concept), identities(concept)
    return apply_concept(model, clip, deltas, concept.handles, strength, known_as)


def weight_deltas(concept: Concept) -> dict[str, WeightDelta]:
    """The changes of a concept in the form of the host's patches."""
    return {name: _delta(change) for name, change in concept.weights.items()}


def _delta(change: Change) -> WeightDelta:
    if isinstance(change, Diff):
        return change.tensor
    if isinstance(change, Kronecker):
        return KroneckerDelta(change.left, change.right, change.scale)
    return change.up, change.down, change.scale


def named_lines(text: str, separator: str = ":") -> dict[str, str]:
    """Lines such as `my-mug: cup` as name -> word; skips empty lines.

    Raises:
        HandleError: a name is not a valid handle, or occurs twice.
    """
    entries: dict[str, str] = {}
    for line in lines_of(text):
        name, _, rest = line.partition(separator)
        name = checked_name(name.strip())
        if name in entries:
            raise HandleError(f"Two concepts use the handle <{name}>; rename one of them.")
        entries[name] = rest.strip()
    return entries


def lines_of(text: str) -> tuple[str, ...]:
    """The non-empty lines."""
    return tuple(filter(None, map(str.strip, text.splitlines())))


def entries(text: str) -> list[str]:
    """Entries of a list typed with commas or line breaks."""
    return [entry for line in lines_of(text) for entry in map(str.strip, line.split(",")) if entry]


def listed(text: str) -> list[str]:
    """The same, each once."""
    return list(dict.fromkeys(entries(text)))


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Whole numbers typed as a list.

    Raises:
        ConfigError: an entry is something else.
    """
    try:
        return tuple(int(entry) for entry in listed(text))
    except ValueError:
        raise ConfigError(
            name, text, "whole numbers separated by commas, such as 200, 400"
        ) from None


def describe_handles(names: Iterable[str]) -> str:
    """Handles as in prompts: "<my-mug>, <my-fish>"."""
    return ", ".join(f"<{name}>" for name in names)


def assumed_latent_size(height: int, width: int, vae: Any) -> tuple[int, int]:
    """Expected (h, w) of the latents of a picture, without encoding it."""
    read = getattr(vae, "spacial_compression_encode", None)
    side = read() if read else LATENT_PX
    return max(1, height // side), max(1, width // side)


def picture(image: Tensor) -> Tensor:
    """[H, W, 3] as a ComfyUI IMAGE of one picture."""
    return image[None]


def shown(cls: Any, image: Tensor | None = None, text: str = "") -> Mapping[str, Any]:
    """UI output with a picture and a text for the node."""
    on_node: dict[str, Any] = {}
    if image is not None:
        try:
            on_node |= ui.PreviewImage(image, cls=cls).as_dict()
        except OSError as error:  # the host keeps it as a file: a full disk costs no result
            log.warning("The picture of a node cannot be shown: %s", error)
    if text:
        on_node |= ui.PreviewText(for_the_editor(with_notices(text))).as_dict()
    return on_node
