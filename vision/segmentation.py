"""Masks from words: Grounding DINO finds boxes, SAM segments the objects in them.

Liu et al. 2023 (arXiv 2303.05499), Kirillov et al. 2023 (arXiv 2304.02643); put together as in
LangSAM (luca-medeiros/lang-segment-anything, commit 918043e), which Concept Weaver uses.

Pictures are resized and normalised here, with the numbers of both papers' own code: the processors
of transformers would ask for torchvision.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ImageError, MaskError, ModelError
from ..host.ports import Progress, no_progress
from .local_files import check_kind, from_folder
from .offload import FreeVRAM, OffloadedModules

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of both networks
DINO_PX, DINO_LONGEST_PX = 800, 1333  # shorter side, and at most
DINO_SOURCE, SAM_SOURCE = "IDEA-Research/grounding-dino-base", "facebook/sam-vit-base"
ORIGINAL_SIZES = ("vit_h", "vit_l", "vit_b")  # part of the names of the original checkpoints


class Take(str, Enum):
    """Which detected boxes make up the mask of a word."""

    BEST = "best"  # the surest one; a word that comes twice gets the next one
    ALL = "all"  # all above the threshold together


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentationConfig:
    """Thresholds of the detector."""

    threshold: float = 0.3  # of a box, 0..1 (LangSAM, lang_sam.py:24)
    take: Take = Take.BEST

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError("threshold", self.threshold, "between 0 and 1")


class SamPrompt(NamedTuple):
    """Prompt for SAM, in pixels: a box, or points inside and outside."""

    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom
    inside: tuple[tuple[float, float], ...] = ()  # (x, y)
    outside: tuple[tuple[float, float], ...] = ()


class Boxes(NamedTuple):
    """Detected boxes, highest score first."""

    corners: Tensor  # [n, 4] left, top, right, bottom in pixels
    scores: Tensor  # [n] 0..1


class Detector(Protocol):
    """Detects objects by a word."""

    def find(self, image: Tensor, word: str) -> Boxes:
        """Boxes in a picture [H, W, 3], 0..1."""
        ...


class Segmenter(Protocol):
    """Segments an object by a box or points."""

    def cut(self, image: Tensor, places: Sequence[SamPrompt]) -> Tensor:
        """Masks [n, H, W], 0 or 1, of a picture [H, W, 3], 0..1."""
        ...


def segment_words(
    image: Tensor,
    words: Sequence[str],
    detector: Detector,
    segmenter: Segmenter,
    config: SegmentationConfig | None = None,
    progress: Progress = no_progress,
) -> Tensor:
    """One mask per word, [n, H, W].

    Args:
        image: [H, W, 3], 0..1.
        progress: called before every word; may raise to cancel.

    Raises:
        MaskError: a word finds nothing.
    """
    config = config or SegmentationConfig()
    masks: list[Tensor] = []
    for i, word in enumerate(words):
        progress(i, len(words))
        boxes = detector.find(image, word)
        sure = boxes.corners[boxes.scores >= config.threshold]
        nth = words[:i].count(word) if config.take is Take.BEST else 0
        if len(sure) <= nth:
            best = f"{float(boxes.scores[0]):.2f}" if len(boxes.scores) else "none"
            raise MaskError(
                f"{word!r} finds {'nothing' if not nth else f'only {nth}'} in the picture (best "
                f"score {best}, threshold {config.threshold:.2f}); lower the threshold, use a "
                "plainer word, or enter a box or points."
            )
        chosen = sure[nth : nth + 1] if config.take is Take.BEST else sure
        places = [SamPrompt(box=(x0, y0, x1, y1)) for x0, y0, x1, y1 in chosen.tolist()]
        masks.append(segmenter.cut(image, places).amax(dim=0))
    return torch.stack(masks)


class GroundingDino:
    """The detector, from a folder in Hugging Face format."""

    def __init__(
        self, folder: Path, device: torch.device, free_vram: FreeVRAM | None = None
    ) -> None:
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection

        check_kind(folder, "Grounding DINO", DINO_SOURCE, "grounding-dino")
        kind: Any = GroundingDinoForObjectDetection
        self._network = from_folder(kind, folder, torch.float32)
        OffloadedModules([self._network], device, free_vram).onload()
        self._tokenizer: Any = from_folder(AutoTokenizer, folder)
        self._device = device

    @torch.no_grad()
    def find(self, image: Tensor, word: str) -> Boxes:
        """All boxes of one word or phrase, with any score."""
        height, width = _size(image)
        pixels = normalised(image, dino_size(height, width)).to(self._device)
        text = self._tokenizer(f"{word.strip().lower().rstrip('.')}.", return_tensors="pt")
        text = {name: value.to(self._device) for name, value in text.items()}
        output = self._network(pixel_values=pixels, **text)
        scores = output.logits[0].float().sigmoid().amax(dim=-1).cpu()
        x, y, w, h = output.pred_boxes[0].float().cpu().unbind(dim=-1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)
        corners = corners.clamp(0, 1) * torch.tensor([width, height, width, height])
        order = scores.argsort(descending=True)
        return Boxes(corners[order], scores[order])


def dino_size(height: int, width: int) -> tuple[int, int]:
    """(h, w) of Grounding DINO's input, exactly as in its own processor."""
    short, long = sorted((height, width))
    exact = min(DINO_PX, DINO_LONGEST_PX * short / long)
    shorter, longer = max(1, round(exact)), max(1, int(exact * long / short))
    return (shorter, longer) if height <= width else (longer, shorter)


class Sam:
    """The segmenter, from a folder in Hugging Face format."""

    def __init__(
        self, folder: Path, device: torch.device, free_vram: FreeVRAM | None = None
    ) -> None:
        from transformers import SamModel

        check_kind(folder, "SAM", SAM_SOURCE, "sam")
        kind: Any = SamModel
        self._network = from_folder(kind, folder, torch.float32)
        OffloadedModules([self._network], device, free_vram).onload()
        self._device = device

    @torch.no_grad()
    def cut(self, image: Tensor, places: Sequence[SamPrompt]) -> Tensor:
        height, width = _size(image)
        side = self._network.config.vision_config.image_size
        scale = side / max(height, width)
        size = (round(height * scale), round(width * scale))
        pixels = F.pad(normalised(image, size), (0, side - size[1], 0, side - size[0]))
        seen = self._network.get_image_embeddings(pixels.to(self._device))
        masks: list[Tensor] = []
        for place in places:
            output = self._network(
                image_embeddings=seen, multimask_output=False, **self._prompt(place, scale)
            )
            logits = output.pred_masks[0, 0].float().cpu()[None]  # [1, 1, h, w]
            whole = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
            inside = whole[..., : size[0], : size[1]]
            fitted = F.interpolate(inside, (height, width), mode="bilinear", align_corners=False)
            masks.append((fitted[0, 0] > 0).float())
        return torch.stack(masks)

    def _prompt(self, place: SamPrompt, scale: float) -> dict[str, Tensor]:
        prompts: dict[str, Tensor] = {}
        if place.box is not None:
            prompts["input_boxes"] = torch.tensor([[place.box]]) * scale
        if points := [*place.inside, *place.outside]:
            labels = [1] * len(place.inside) + [0] * len(place.outside)
            prompts["input_points"] = torch.tensor([[points]]) * scale
            prompts["input_labels"] = torch.tensor([[labels]])
        return {name: value.to(self._device) for name, value in prompts.items()}


class OriginalSam:
    """The segmenter from an original `.pth` checkpoint, by the `segment-anything` package."""

    def __init__(self, path: Path, device: torch.device, free_vram: FreeVRAM | None = None) -> None:
        size = next((size for size in ORIGINAL_SIZES if size in path.name), None)
        if size is None:
            raise ModelError(
                f"The name {path.name} does not contain the model size; original SAM checkpoints "
                f"have {', '.join(ORIGINAL_SIZES)} in their names. Restore the original name."
            )
        try:
            library: Any = importlib.import_module("segment_anything")
        except ImportError as error:
            raise ModelError(
                f"{path.name} is an original SAM checkpoint, which needs the package "
                "segment-anything (pip install segment-anything). A folder in Hugging Face "
                f"format ({SAM_SOURCE}) needs no package."
            ) from error
        network = library.sam_model_registry[size]()
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many kinds for a damaged or hostile file
            raise ModelError(f"{path} is not a readable SAM checkpoint: {error}") from error
        OffloadedModules([network], device, free_vram).onload()
        self._predictor = library.SamPredictor(network)

    def cut(self, image: Tensor, places: Sequence[SamPrompt]) -> Tensor:
        _size(image)
        self._predictor.set_image((image * 255).round().byte().cpu().numpy())
        masks: list[Tensor] = []
        for place in places:
            points = [*place.inside, *place.outside]
            labels = [1] * len(place.inside) + [0] * len(place.outside)
            planes, _, _ = self._predictor.predict(
                point_coords=torch.tensor(points).float().numpy() if points else None,
                point_labels=torch.tensor(labels).numpy() if points else None,
                box=torch.tensor(place.box).numpy() if place.box is not None else None,
                multimask_output=False,
            )
            masks.append(torch.from_numpy(planes[0]).float())
        return torch.stack(masks)


def segmenter_from(
    path: Path, device: torch.device, free_vram: FreeVRAM | None = None
) -> Segmenter:
    """A segmenter from a folder, or from an original checkpoint file."""
    kind = OriginalSam if path.suffix == ".pth" else Sam
    return kind(path, device, free_vram)


def normalised(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[1, 3, h, w] a picture [H, W, 3] resized and normalised as both networks expect."""
    pixels = image.float().cpu().movedim(-1, 0)[None]
    resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(n)[None, :, None, None] for n in (MEAN, STD))
    return (resized - mean) / std


def parsed_places(text: str) -> list[SamPrompt]:
    """One place a line: `box 10 20 90 80`, or `30 40; 50 60; not 5 5` for points.

    Raises:
        ConfigError: a line is neither.
    """
    return [_place(line.strip()) for line in text.splitlines() if line.strip()]


def _place(line: str) -> SamPrompt:
    try:
        if line.startswith("box"):
            left, top, right, bottom = _numbers(line[3:])
            if right <= left or bottom <= top:
                raise ValueError
            return SamPrompt(box=(left, top, right, bottom))
        points: Mapping[bool, list[tuple[float, float]]] = {True: [], False: []}
        for part in filter(None, map(str.strip, line.split(";"))):
            x, y = _numbers(part.removeprefix("not"))
            points[not part.startswith("not")].append((x, y))
        return SamPrompt(inside=tuple(points[True]), outside=tuple(points[False]))
    except ValueError:
        raise ConfigError(
            "places", line, "`box left top right bottom`, or points such as `30 40; not 5 5`"
        ) from None


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.replace(",", " ").split()]


def _size(image: Tensor) -> tuple[int, int]:
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ImageError(
            f"The picture has the shape {list(image.shape)}; it must be height x width x 3."
        )
    return image.shape[0], image.shape[1]
