"""Cross-Attention Guidance: moves words into their masks, under any sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError, PromptError
from ..host.comfyui.gradient_guidance import Forward, with_steering
from ..host.comfyui.prompts import clip_with_handles
from ..host.comfyui.tokens import HIDDEN
from ..host.ports import Tokens, UNetSites, find_run
from ..host.prompt_text import HANDLE, composed
from ..samplers.guidance import (
    AttentionTarget,
    GuidanceConfig,
    guided_sites,
    latent_gradient,
    moved,
)
from ..samplers.masks import check_aspect, picture_masks
from ..training.setting import changed
from .blended import SAMPLING
from .inputs import KNOWS_NAMES, model_inputs
from .shared import host_of, listed
from .widgets import widgets_of

KEY = "conceptloom.guidance"


class CrossAttentionGuidance(io.ComfyNode):
    """MODEL with guidance of the words' attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomCrossAttentionGuidance",
            display_name="Cross-Attention Guidance",
            category=SAMPLING,
            description="Moves words or learned names of the prompt into a mask, or out of it, "
            "by changing the latents before each step (CLiC). Works in any sampler; encode the "
            "prompt with this node's CLIP output.",
            search_aliases=["attend and excite", "attention guidance", "layout", "clic", "remove"],
            inputs=[
                *model_inputs(
                    "Any model that ConceptLoom supports, with or without concepts.", KNOWS_NAMES
                ),
                io.String.Input(
                    "words",
                    default="cup",
                    tooltip="Words, phrases or names such as <my-mug>, separated by commas. "
                    "The positive prompt must contain them.",
                ),
                *widgets_of(GuidanceConfig()),
                io.Boolean.Input(
                    "save_memory",
                    default=False,
                    advanced=True,
                    tooltip="Gradient checkpointing. On: much less memory, a third more time "
                    "in guided steps. Off: faster.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Target region of the words: one mask for all, or one for each "
                    "word. Without it: the whole picture, as in the authors' code.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    tooltip="The patched model, for any sampler. The input model is not modified.",
                ),
                io.Clip.Output(
                    "clip",
                    tooltip="For the text encoder: it passes the positions of the "
                    "words to the guidance.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, words: str, save_memory: bool, mask: Tensor | None = None,
        **settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        config = changed(GuidanceConfig(), settings)
        targets = target_words(model, clip, words, mask)
        telling = clip_with_handles(clip, {})
        guided_sites(host_of(model, clip).sites, config.downsample)
        if not config.wants(0):
            return io.NodeOutput(model, telling)
        return io.NodeOutput(guided(model, targets, config, save_memory), telling)


@dataclass(frozen=True, slots=True)
class TargetWord:
    """A word, its tokens, and the target of its attention."""

    text: str
    piece: Tokens
    target: Tensor | None  # [H, W]


class _Guidance:
    """The guidance of one sampling run."""

    def __init__(self, words: Sequence[TargetWord], config: GuidanceConfig) -> None:
        self._words, self._config = words, config

    def wants(self, step: int) -> bool:
        return self._config.wants(step)

    def sees(self, tokens: Tokens) -> bool:
        return bool(self._targets(tokens))

    def gradient(
        self, forward: Forward, latent: Tensor, sites: UNetSites, tokens: Tokens
    ) -> Tensor:
        chosen = guided_sites(sites, self._config.downsample)
        for word in self._words:
            if word.target is not None:
                size = word.target.shape[-2], word.target.shape[-1]
                check_aspect(size, (latent.shape[-2], latent.shape[-1]), " latents")
        return latent_gradient(forward, latent, self._targets(tokens), chosen, self._targets)

    def moved(self, latent: Tensor, gradient: Tensor) -> Tensor:
        return moved(latent, gradient, self._config)

    def _targets(self, tokens: Tokens) -> list[AttentionTarget]:
        located = [(find_run(tokens, word.piece), word.target) for word in self._words]
        return [
            AttentionTarget(places, len(tokens), target) for places, target in located if places
        ]


def target_words(model: Any, clip: Any, words: str, mask: Tensor | None) -> list[TargetWord]:
    """The words of the widget, each with its mask.

    Raises:
        ConfigError: there is no word.
        MaskError: a mask is empty; see `picture_masks`.
    """
    texts = listed(words)
    if not texts:
        raise ConfigError("words", words, "one or more words of the prompt, separated by commas")
    host = host_of(model, clip)
    handles = [HANDLE.fullmatch(text) for text in texts]
    pieces = [
        (composed(h[1]),) if h else host.tokenize(t) for h, t in zip(handles, texts, strict=True)
    ]
    targets: list[Tensor | None] = [None] * len(texts)
    if mask is not None:
        planes = picture_masks(mask, (mask.shape[-2], mask.shape[-1]))
        if len(planes) not in (1, len(texts)):
            raise ConfigError(
                "words", words, f"{len(planes)} words, one for each mask (or connect a single mask)"
            )
        targets = [planes[min(i, len(planes) - 1)] for i in range(len(texts))]
    return [TargetWord(*parts) for parts in zip(texts, pieces, targets, strict=True)]


def guided(
    model: Any, words: Sequence[TargetWord], config: GuidanceConfig, save_memory: bool = False
) -> Any:
    """A clone of a MODEL that guides these words in every sampling run."""

    def start(prompts: Mapping[str, Tokens]) -> _Guidance:
        if not prompts:
            raise PromptError(
                "Cross-Attention Guidance does not know the words of the positive prompt; encode "
                f"the prompt with that node's CLIP output. {HIDDEN}"
            )
        for word in words:
            if not any(find_run(tokens, word.piece) for tokens in prompts.values()):
                raise PromptError(
                    f"The positive prompt does not contain {word.text!r}, which Cross-Attention "
                    "Guidance should guide; add it to the prompt, or guide another word. "
                    f"{HIDDEN}"
                )
        return _Guidance(words, config)

    return with_steering(model, KEY, start, checkpointing=save_memory)
