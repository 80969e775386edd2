"""A localised LoRA: the user's request, and its form for the edit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..concepts.concept import Diff
from ..concepts.lora_dense import resolved
from ..concepts.lora_file import LoraFile
from ..concepts.lora_forms import Computed, Difference, Form
from ..errors import ConfigError, MaskError, PromptError
from ..host.ports import Tokens, find_run
from .local_layers import Applied, added, added_bias
from .local_masks import Cut, MaskMeans

Part = tuple[Applied, float]  # what is added to a weight, and a factor


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalConfig:
    """How one LoRA is localised."""

    found_after: float = 0.2  # share of the steps in which the base model alone shows the place
    end: float = 1.0  # share of the steps after which the base model is alone again
    cut: Cut = field(default_factory=Cut)
    mask_means: MaskMeans = MaskMeans.EXACTLY

    def __post_init__(self) -> None:
        for name in ("found_after", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LocalLora:
    """One LoRA and where it belongs.

    Attributes:
        name: of its file, for messages.
        words: that the base model knows, as they stand in the prompt; they tell where it belongs.
        tokens: the same words as tokens of the first text encoder.
        strength: on the UNet; 0 leaves it to the base model.
        text_strength: on the text encoders, whose context only this LoRA's region reads.
        mask: [H, W], 0..1, painted by the user, or None.
    """

    file: LoraFile
    name: str
    words: str
    tokens: Tokens
    strength: float = 1.0
    text_strength: float = 1.0
    config: LocalConfig = field(default_factory=LocalConfig)
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("strength", "text_strength"):
            if not abs(getattr(self, name)) < 1e6:
                raise ConfigError(name, getattr(self, name), "a finite number")
        if self.mask is not None and (self.mask.ndim != 2 or not self.mask.isfinite().all()):
            raise MaskError(
                f"The mask of {self.name} has the shape {list(self.mask.shape)} or holds NaN; give "
                "one mask, height x width of numbers from 0 to 1."
            )
        if not self.tokens and self.mask is None:
            raise ConfigError(
                "words",
                self.words,
                "the words of the prompt that show where the LoRA belongs, such as: girl with blue "
                "hair; or connect a mask",
            )

    @property
    def key(self) -> str:
        """Tells it from other LoRAs, whatever their order; strengths do not count."""
        digest = hashlib.sha256(f"{self.file.identity} {self.tokens} {self.config}".encode())
        if self.mask is not None:
            digest.update(self.mask.cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def is_exact(self) -> bool:
        """Whether a painted mask alone says where it works."""
        exact = self.config.mask_means is MaskMeans.EXACTLY
        return self.mask is not None and (exact or not self.tokens)


def joined(loras: Sequence[LocalLora]) -> tuple[LocalLora, ...]:
    """Every LoRA once, in an order of their own; the strengths of one that comes twice add up.

    Raises:
        PromptError: two LoRAs are looked for by the same words.
    """
    joined_loras: dict[str, LocalLora] = {}
    for lora in loras:
        before = joined_loras.get(lora.key)
        if before is not None:
            lora = replace(
                before,
                strength=before.strength + lora.strength,
                text_strength=before.text_strength + lora.text_strength,
            )
        joined_loras[lora.key] = lora
    ordered = tuple(joined_loras[key] for key in sorted(joined_loras))
    looked_for: dict[Tokens, LocalLora] = {}
    for lora in (lora for lora in ordered if not lora.is_exact):
        other = looked_for.setdefault(lora.tokens, lora)
        if other is not lora:
            raise PromptError(
                f'{other.name} and {lora.name} are both looked for at "{lora.words}", so they '
                "cannot be told apart; give each of them words of its own, or paint a mask."
            )
    return ordered


def check_prompts(loras: Sequence[LocalLora], prompts: Mapping[str, Tokens]) -> None:
    """Whether the words of every LoRA stand in a prompt.

    Args:
        prompts: text, or what it is called -> its tokens; only those that are no negative ones.

    Raises:
        PromptError: they do not.
    """
    for lora in (lora for lora in loras if not lora.is_exact):
        if not any(find_run(tokens, lora.tokens) for tokens in prompts.values()):
            raise PromptError(
                f'No prompt holds the words "{lora.words}", so {lora.name} cannot be placed; write '
                "them in the positive prompt exactly so, for example beside the trigger word, and "
                "encode it with the CLIP of Load LoRA (Localized)."
            )


def parts_of(
    lora: LocalLora, weight: Callable[[str], Tensor], difference: Difference | None = None
) -> dict[str, Part]:
    """Canonical weight name -> what a LoRA adds to it in the UNet.

    Args:
        weight: canonical name -> original weight.
        difference: the host's own way to merge what depends on the weight.
    """
    return _parts(lora.file.unet, lora.strength, weight, difference)


def text_parts_of(
    lora: LocalLora, weight: Callable[[str], Tensor], difference: Difference | None = None
) -> dict[str, Part]:
    """The same for the text encoders."""
    return _parts(lora.file.text, lora.text_strength, weight, difference)


def text_changed(part: Part, is_bias: bool, module: Any, inputs: Tensor, output: Tensor) -> Tensor:
    """What a layer of a text encoder gives with a LoRA."""
    form, factor = part
    if is_bias:
        assert isinstance(form, Diff)
        return output + factor * added_bias(form, module, output)
    return output + factor * added(form, module, inputs)


def _parts(
    forms: Mapping[str, Form], strength: float, weight: Callable[[str], Tensor],
    difference: Difference | None,
) -> dict[str, Part]:  # fmt: skip
    parts: dict[str, Part] = {}
    for name, form in forms.items() if strength else ():
        if isinstance(form, Computed):
            with torch.no_grad():
                original = weight(name).float().cpu()
                parts[name] = resolved(form, original, strength, difference), 1.0
        else:
            parts[name] = form, strength
    return parts
