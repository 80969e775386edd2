"""A LoRA file as a concept: its trigger becomes a handle, its changes become the concept's.

The handle `<name>` stands for the token vectors of the trigger word, so a prompt with `<name>` is
encoded exactly as one with the word. The words behind it, which the base model knows, show where
the concept is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from ..errors import ConceptFileError, ConfigError
from ..host.ports import Host
from ..host.prompt_text import NAME
from .changes import Change, scale_of
from .concept import Concept
from .concept_checks import LARGEST_SCALE
from .handles import checked_name
from .lora_dense import resolved
from .lora_file import LoraFile
from .lora_forms import Computed, Difference
from .lora_metadata import LoraWords

METHOD = "lora"
MOST_VECTORS = 28  # of a handle: a trigger is a word or a phrase, not a prompt
LONGEST_NAME = 40


def concept_of_lora(
    host: Host, file: LoraFile, metadata: LoraWords, *, words: str, file_name: str = "",
    name: str = "", trigger: str = "", thumbnail: Tensor | None = None,
    difference: Difference | None = None,
) -> Concept:  # fmt: skip
    """A concept with everything that a LoRA changes.

    What depends on the weight it changes (DoRA, OFT, BOFT, GLoRA) is computed on this base model,
    at strength 1, and is a whole difference from then on.

    Args:
        metadata: what the file says about itself.
        words: that the base model knows, "girl with blue hair"; they stand behind the handle.
        file_name: for the record, and for the handle where nothing else names it.
        name: of the handle; by default the trigger.
        trigger: by default the one of the metadata, or the most frequent tag. A file without one
            gets the words themselves as its handle.
        thumbnail: [H, W, 3], 0..1.
        difference: the host's own way to merge what depends on the weight.

    Raises:
        ConfigError: the words are missing, or the trigger is a whole prompt.
        HandleError: the name cannot be a handle.
    """
    words = " ".join(words.split())
    if not words:
        raise ConfigError(
            "words",
            words,
            "the words of a prompt that the base model knows and that show where the LoRA's "
            "subject is, such as: girl with blue hair",
        )
    trigger = trigger.strip() or trigger_of(metadata)
    title = PurePath(file_name).stem
    handle = checked_name(name) if name.strip() else proposed_name(trigger, metadata.title, title)
    vectors = _vectors(host, trigger or words)
    behind = f" {words}" if trigger else ""
    return Concept(
        handles={handle: vectors},
        weights=_weights(host, file, difference),
        base=host.fingerprint,
        method=METHOD,
        recipe={
            "class_word": words if trigger else "",
            "file": file_name,
            "kinds": dict(file.kinds),
            "left_out": len(file.unmatched),
            "trigger": trigger,
        },
        prompts=(f"a photo of <{handle}>{behind}",),
        words={handle: words},
        thumbnail=thumbnail,
    )


def trigger_of(metadata: LoraWords) -> str:
    """The first phrase of the trigger that a file names, else its most frequent tag, else ""."""
    named = metadata.trigger.split(",")[0].strip()
    return named or next(iter(metadata.tags), "")


def proposed_name(*texts: str) -> str:
    """A handle made of the first text with usable letters."""
    names = ("-".join(NAME.findall(text.lower()))[:LONGEST_NAME].strip("-") for text in texts)
    return checked_name(next(filter(None, names), METHOD))


def lora_of_concept(concept: Concept, identity: str) -> LoraFile:
    """A concept's changes as those of a LoRA file, for what applies such files."""
    return LoraFile(changes=concept.weights, identity=identity)


def _vectors(host: Host, phrase: str) -> Mapping[str, Tensor]:
    vectors = {encoder: rows.cpu() for encoder, rows in host.word_vectors(phrase).items()}
    counts = [len(rows) for rows in vectors.values()]  # readers may cut a word differently
    if min(counts) < 1 or max(counts) > MOST_VECTORS:
        raise ConfigError(
            "trigger",
            phrase,
            f"a word or a short phrase of 1 to {MOST_VECTORS} tokens, as your prompts write it",
        )
    return vectors


@torch.no_grad()
def _weights(host: Host, file: LoraFile, difference: Difference | None) -> dict[str, Change]:
    weights: dict[str, Change] = {}
    for name, form in file.changes.items():
        change: Any = form
        if isinstance(form, Computed):
            change = resolved(form, host.weight(name).float().cpu(), 1.0, difference, name)
        finite = all(bool(tensor.isfinite().all()) for tensor in change.tensors)
        if not finite or not abs(scale_of(change)) < LARGEST_SCALE:
            raise ConceptFileError(
                f"The LoRA holds NaN, infinite or huge numbers at {name}; the file is damaged, "
                "download it again."
            )
        weights[name] = change
    return weights
