"""Attention Maps: cross-attention of the words of a prompt on a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..attention.capture import READ_AT, read_attention
from ..attention.metrics import LocalisationScores, attention_scores
from ..errors import ConfigError, ImageError, MaskError
from ..host.comfyui.progress import NodeProgress
from ..host.ports import Host
from ..host.prompt_text import HANDLE
from ..viz.colors import concept_colours
from ..viz.overlays import attention_overlay, describe_scores
from .inputs import KNOWS_NAMES, model_inputs, seed_input
from .shared import CATEGORY, host_of, listed, picture, shown, whole_numbers


class AttentionMaps(io.ComfyNode):
    """Heat-maps of words or learned names."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomAttentionMaps",
            display_name="Attention Maps",
            category=CATEGORY,
            description="Shows which parts of a picture each word of a prompt attends to. "
            "Works with plain words and learned names, on every model that ConceptLoom supports.",
            search_aliases=["daam", "heatmap", "cross attention", "token map", "iou"],
            inputs=[
                *model_inputs(
                    "The base model, with or without concepts.",
                    KNOWS_NAMES,
                    "Its VAE, which encodes the picture.",
                ),
                io.Image.Input("image", tooltip="The picture to analyse; the first of a batch."),
                io.String.Input(
                    "prompt",
                    default="a photo of a red mug and a blue fish",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="A description of the picture. It must contain the words below.",
                ),
                io.String.Input(
                    "words",
                    default="mug, fish",
                    tooltip="Words, phrases or names such as <my-mug>, separated by commas. "
                    "Each gets its own map.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="Target regions of the words: one mask per word, or one for all. "
                    "The scores then include IoU (1 is best) and leak (0 is best).",
                ),
                io.String.Input(
                    "timesteps",
                    default=", ".join(map(str, READ_AT)),
                    advanced=True,
                    tooltip="Noise levels to read at, 0 to 999; the maps are their mean. Low "
                    "levels show detail, high ones only the layout.",
                ),
                io.Combo.Input(
                    "level",
                    options=[0, 1, 2, 4, 8],
                    default=0,
                    advanced=True,
                    tooltip="Downsampling factor of the maps, relative to the latents. Low "
                    "values give fine, noisy maps, high ones coarse maps; 0 chooses as "
                    "training does.",
                ),
                seed_input(
                    "Seed of the noise added to the picture; the same seed gives the same maps.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Image.Output(
                    "overlay",
                    tooltip="The picture once per word: bright where the word attends, dark "
                    "elsewhere.",
                ),
                io.Mask.Output(
                    "maps",
                    tooltip="A batch with one map per word at the picture's size, scaled so "
                    "that the maximum is 1. Usable as masks.",
                ),
                io.String.Output(
                    "scores", tooltip="IoU and leak per word, if masks are connected."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, image: Tensor, prompt: str, words: str,
        timesteps: str, level: int, seed: int, masks: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        at = whole_numbers("timesteps", timesteps)
        reading = read(host_of(model, clip, vae), image, prompt, listed(words), at, level, seed)
        scores = scored(reading.maps, masks)
        overlay = picture(overlay_of(reading, scores, masks))
        summary = scores_of(scores)
        return io.NodeOutput(overlay, stretched(reading), summary, ui=shown(cls, overlay, summary))


@dataclass(frozen=True, slots=True)
class AttentionReading:
    """Attention maps of one picture."""

    image: Tensor  # [H, W, 3]
    maps: Mapping[str, Tensor]  # word -> [gh, gw]


def read(
    host: Host,
    image: Tensor,
    prompt: str,
    words: Sequence[str],
    timesteps: Sequence[int],
    level: int,
    seed: int,
) -> AttentionReading:
    """Maps of words in the first picture of a batch.

    Raises:
        InputError: there are no words, or see `read_attention`.
    """
    if not words:
        raise ConfigError("words", "", "one or more words of the prompt, separated by commas")
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ImageError(f"The image has the shape {list(image.shape)}; connect an RGB picture.")
    first = image[:1, ..., :3]
    latent = host.encode_image(first)
    encoded = host.encode_prompt(prompt)
    maps = read_attention(
        host, latent, encoded, words, timesteps=timesteps, downsample=level, seed=seed,
        progress=NodeProgress(),
    )  # fmt: skip
    return AttentionReading(first[0], maps)


def scored(maps: Mapping[str, Tensor], masks: Tensor | None) -> dict[str, LocalisationScores]:
    """IoU and leak per word; none without masks.

    Raises:
        MaskError: the number of masks is neither one nor that of the words.
    """
    if masks is None:
        return {}
    named = named_masks(list(maps), masks)
    return {word: attention_scores(maps[word], mask) for word, mask in named.items()}


def named_masks(words: Sequence[str], masks: Tensor) -> dict[str, Tensor]:
    """A mask [H, W] for every word."""
    batch = masks if masks.ndim == 3 else masks[None]
    if len(batch) not in (1, len(words)):
        raise MaskError(
            f"{len(batch)} masks came for {len(words)} words ({', '.join(words)}); give one per "
            "word in the same order, or a single one for all."
        )
    return {word: batch[min(i, len(batch) - 1)] for i, word in enumerate(words)}


def overlay_of(
    reading: AttentionReading, scores: Mapping[str, LocalisationScores], masks: Tensor | None
) -> Tensor:
    """[H, W, 3] one panel per word; names without their brackets, which the panels draw."""
    bare = {word: HANDLE.sub(r"\1", word) for word in reading.maps}
    handles = [name for word, name in bare.items() if name != word]
    return attention_overlay(
        reading.image,
        {bare[word]: map for word, map in reading.maps.items()},
        None if masks is None else {bare[w]: m for w, m in named_masks([*bare], masks).items()},
        {bare[word]: pair for word, pair in scores.items()},
        concept_colours(handles),
    )


def stretched(reading: AttentionReading) -> Tensor:
    """MASK [n, H, W]: every map from 0 to 1, as large as the picture."""
    size = reading.image.shape[:2]
    rows = torch.stack([map / map.max().clamp_min(1e-12) for map in reading.maps.values()])
    return F.interpolate(rows[:, None], tuple(size), mode="bilinear")[:, 0].clamp(0, 1)


def scores_of(scores: Mapping[str, LocalisationScores]) -> str:
    """The scores as text, one word per line."""
    return "\n".join(f"{word}: {describe_scores(*pair)}" for word, pair in scores.items())
