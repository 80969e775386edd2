"""Segment by Text: a mask for every word, by Grounding DINO and SAM from local files."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError, ImageError, ModelError
from ..host.comfyui.memory import free_vram
from ..host.comfyui.progress import NodeProgress
from ..scenes.scene import ConceptScene, SceneImage
from ..vision.segmentation import (
    DINO_SOURCE,
    SAM_SOURCE,
    GroundingDino,
    SegmentationConfig,
    Take,
    parsed_places,
    segment_words,
    segmenter_from,
)
from ..viz.scene_preview import scene_preview
from .model_folders import CONFIG, DETECTORS, SEGMENTERS, models_in
from .shared import lines_of, picture, shown
from .template import WEAVER

NONE = "(none found)"


class SegmentByText(io.ComfyNode):
    """IMAGE + words -> MASK."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        config = SegmentationConfig()
        return io.Schema(
            node_id="ConceptLoomSegmentByText",
            display_name="Segment by Text",
            category=WEAVER,
            description="Makes one mask per word: Grounding DINO finds a box, SAM segments the "
            "object in it. Manual boxes and points work too. Uses only local model files; "
            "downloads nothing.",
            search_aliases=["grounding dino", "sam", "langsam", "segment anything", "mask"],
            inputs=[
                io.Image.Input("image", tooltip="The picture; the first of a batch."),
                io.String.Input(
                    "words",
                    default="mug\nfish",
                    multiline=True,
                    tooltip="One word or phrase per line; each becomes a mask. A repeated line "
                    "finds different objects.",
                ),
                io.Combo.Input(
                    "detector",
                    options=[*detectors()] or [NONE],
                    tooltip=f"A folder in models/{DETECTORS} with the files of {DINO_SOURCE}.",
                ),
                io.Combo.Input(
                    "segmenter",
                    options=[*segmenters()] or [NONE],
                    tooltip=f"A folder in models/{SEGMENTERS} with the files of {SAM_SOURCE}, or "
                    "an original sam_vit_*.pth, which needs the package segment-anything.",
                ),
                io.Float.Input(
                    "threshold",
                    default=config.threshold,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Minimum confidence of a box: 0 accepts any, 0.3 is usual, 1 finds "
                    "nothing.",
                ),
                io.Combo.Input(
                    "take",
                    options=[take.value for take in Take],
                    default=config.take.value,
                    tooltip="best: the most confident object of a word. all: every object of "
                    "the word, combined.",
                ),
                io.String.Input(
                    "places",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Manual prompts instead of words, one line per mask, in pixels: "
                    "box 10 20 90 80 (left, top, right, bottom), or points such as 30 40; 50 "
                    "60; not 5 5. Empty uses the words.",
                ),
            ],
            outputs=[
                io.Mask.Output("masks", tooltip="One mask per line, for Regions."),
                io.Image.Output("preview", tooltip="The picture with its numbered masks."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, words: str, detector: str, segmenter: str, threshold: float, take: str,
        places: str,
    ) -> io.NodeOutput:  # fmt: skip
        config = SegmentationConfig(threshold=threshold, take=Take(take))
        masks, names = segmented(image, words, detector, segmenter, config, places)
        preview = picture(preview_of(image[0, ..., :3], masks, names))
        return io.NodeOutput(masks, preview, ui=shown(cls, preview))


def segmented(
    image: Tensor, words: str, detector: str, segmenter: str, config: SegmentationConfig,
    places: str,
) -> tuple[Tensor, list[str]]:  # fmt: skip
    """MASK [n, H, W], and a name for each.

    Raises:
        InputError: a word finds nothing, or a place is not valid.
        ModelError: files are missing or damaged.
    """
    if image.ndim != 4:
        raise ImageError(f"The image has the shape {list(image.shape)}; connect an IMAGE.")
    first, device = image[0, ..., :3], comfy.model_management.get_torch_device()
    by_hand = parsed_places(places)
    if by_hand:
        cutter = segmenter_from(
            chosen(segmenters(), segmenter, SEGMENTERS, SAM_SOURCE), device, free_vram
        )
        return cutter.cut(first, by_hand), [f"place {i + 1}" for i in range(len(by_hand))]
    names = list(lines_of(words))
    if not names:
        raise ConfigError("words", words, "one word or phrase per line, or places")
    detector_path = chosen(detectors(), detector, DETECTORS, DINO_SOURCE)
    finder = GroundingDino(detector_path, device, free_vram)
    cutter = segmenter_from(
        chosen(segmenters(), segmenter, SEGMENTERS, SAM_SOURCE), device, free_vram
    )
    return segment_words(first, names, finder, cutter, config, NodeProgress()), names


def detectors() -> dict[str, Path]:
    """Grounding DINOs, by the names of their folders."""
    return models_in(DETECTORS, CONFIG)


def segmenters() -> dict[str, Path]:
    """SAMs, by the names of their folders or original files."""
    return models_in(SEGMENTERS, CONFIG, "sam_vit_*.pth")


def chosen(folders: dict[str, Path], name: str, kind: str, source: str) -> Path:
    """The path of a listed model; checked again, because API calls can pass any name.

    Raises:
        ModelError: it is not there.
    """
    if name not in folders:
        raise ModelError(
            f"There is no {name!r} in models/{kind}. Put the files of {source} (from Hugging "
            "Face, safetensors) into "
            f"{Path(folder_paths.models_dir) / kind / source.rpartition('/')[2]}, or use "
            "Download Segmentation Model, and press R. Masks from any other node work too."
        )
    return folders[name]


def preview_of(image: Tensor, masks: Tensor, names: list[str]) -> Tensor:
    """[H, W, 3] the masks over the picture, without empty ones."""
    named = {
        f"{name} {i + 1}" if names.count(name) > 1 else name: mask
        for i, (name, mask) in enumerate(zip(names, masks, strict=True))
        if float(mask.max()) > 0
    }
    scene = ConceptScene((SceneImage(image.float().cpu(), named),), dict.fromkeys(named, ""))
    return scene_preview(scene)
