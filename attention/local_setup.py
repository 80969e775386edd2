"""Localised LoRAs on a base model, ready to draw with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..concepts.lora_file import LoraFile, lora_of
from ..concepts.lora_keys import key_map
from ..host.ports import HandleVectors, Host, Prompt, Tokens, WeightEdit
from ..host.prompt_text import without_passages
from .local import REST, LocalEdit
from .local_finding import OnMasks
from .local_joint import local_edit_class
from .local_lora import LocalLora, Part, check_prompts, joined, parts_of, text_parts_of
from .local_stacks import LocalLayers

log = logging.getLogger("conceptloom")


def lora_for(host: Host, tensors: Mapping[str, Tensor], what: str = "The LoRA") -> LoraFile:
    """What the tensors of a LoRA file add to a base model.

    Raises:
        BaseMismatchError: nothing of it fits, or it has other widths.
    """
    known = set(host.weight_names())
    names = key_map(known, host.sites, host.encoders)
    return lora_of(tensors, names, shapes_of(host, known), what)


def shapes_of(host: Host, known: Collection[str]) -> Callable[[str], tuple[int, ...] | None]:
    """Name of a weight or bias -> its shape in a base model; None where it has none.

    Args:
        known: names of all of its weights.
    """
    return lambda name: host.weight_shape(name) if name in known else None


@dataclass(frozen=True, slots=True, eq=False)
class LocalSetup:
    """LoRAs of one base model, each in its own place.

    Attributes:
        loras: each once, in an order of their own; masks come in it.
        layers: what they add.
    """

    host: Host
    loras: tuple[LocalLora, ...]
    layers: LocalLayers

    def encode(self, text: str, handles: HandleVectors | None = None) -> Prompt:
        """A prompt, read by the picture as it is and by each LoRA's place in its own way."""
        prompt = self.host.encode_prompt(text, handles)
        if self.host.sites.joint is not None:  # its regions have streams of the text
            return prompt
        texts: dict[str, Tensor] = {}
        moved: list[Tensor] = []
        for lora in self.loras:
            parts = text_parts_of(lora, self.host.weight)
            if not parts:
                continue
            edits = {name: _edit(part) for name, part in parts.items()}
            with self.host.edited(edits, trainable=False):
                own = self.host.encode_prompt(text, handles)
            texts[lora.key] = own.context - prompt.context
            if prompt.pooled is not None and own.pooled is not None:
                moved.append(own.pooled - prompt.pooled)
        passages = [lora.words for lora in self.loras if lora.is_exact and lora.words]
        if passages:
            without = self.host.encode_prompt(without_passages(text, passages), handles)
            context = _as_long(without.context, prompt.context, self.host.sites.text.padded)
            texts[REST] = context - prompt.context
        pooled = prompt.pooled
        if moved and pooled is not None:  # one vector for the whole picture
            pooled = pooled + torch.stack(moved).sum(dim=0) / len(moved)
        return replace(prompt, pooled=pooled, own_texts=texts)

    def edit(
        self, steps: int, prompts: Mapping[str, Tokens], on_masks: OnMasks | None = None
    ) -> LocalEdit:
        """What takes part in every pass of DDIM runs with so many steps, one after the other.

        Raises:
            PromptError: the words of a LoRA stand in none of the prompts.
        """
        check_prompts(self.loras, prompts)
        path = self.host.noise_path
        edit = local_edit_class(self.host.sites)
        return edit(self.loras, self.layers, path.timesteps(steps), path.last_t, on_masks)

    def reading_edit(self, prompts: Mapping[str, Tokens], on_masks: OnMasks) -> LocalEdit:
        """The same for single passes, which show masks of their own attention.

        Raises:
            PromptError: the words of a LoRA stand in none of the prompts.
        """
        check_prompts(self.loras, prompts)
        edit = local_edit_class(self.host.sites)
        return edit(self.loras, self.layers, on_masks=on_masks)


def local_setup(host: Host, loras: Sequence[LocalLora]) -> LocalSetup:
    """LoRAs on the device and in the precision of a base model.

    Raises:
        PromptError: two LoRAs are looked for by the same words.
    """
    ordered = joined(loras)
    if host.sites.joint is not None and (left_out := text_left_out(ordered)):
        log.warning("%s", left_out)
    parts = [parts_of(lora, host.weight) for lora in ordered]
    layers = LocalLayers(host.sites, parts, lambda tensor: tensor.to(host.device, host.dtype))
    return LocalSetup(host, ordered, layers)


def text_left_out(loras: Sequence[LocalLora]) -> str:
    """What a user is told where text encoders cannot be changed for a region alone; or ""."""
    changes = [(lora.name, len(lora.file.text)) for lora in loras if lora.text_strength]
    every = [f"{name}: {count} weights" for name, count in changes if count]
    return (
        f"{', '.join(every)} of the text encoder are left out: on this model a LoRA works in the "
        "network alone."
        if every
        else ""
    )


def _as_long(context: Tensor, like: Tensor, padded: bool) -> Tensor:
    """A context [1, K, width] of a shorter prompt, repeated; attention does not see repeats.

    Args:
        padded: zeros come behind it instead.
    """
    missing = like.shape[1] - context.shape[1]
    if missing == 0:
        return context
    if padded:
        return F.pad(context, (0, 0, 0, missing))
    times = -(-like.shape[1] // context.shape[1])
    return context.repeat(1, times, 1)[:, : like.shape[1]]


def _edit(part: Part) -> WeightEdit:
    form, factor = part

    def edit(weight: Tensor) -> Tensor:
        return (weight.float() + factor * form.delta(weight.shape).to(weight.device)).to(weight)

    return edit
