"""CLIP, DINO and LPIPS, and the masks of drawn pictures, from local folders as transformers saves
them.

What is no folder and does not look like the path of one is a name on the Hugging Face hub, and is
downloaded: nothing else ever is. LPIPS: Zhang et al. 2018, arXiv 1801.03924.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from conceptloom.errors import ConfigError, MaskError, ModelError
from conceptloom.vision.local_files import from_folder
from conceptloom.vision.prior import cut_square
from conceptloom.vision.segmentation import (
    DINO_LONGEST_PX,
    DINO_PX,
    MEAN,
    STD,
    GroundingDino,
    Sam,
    normalised,
    segment_words,
)

# DINO's own evaluation scales to 256 and cuts 224 from the middle (facebookresearch/dino,
# eval_knn.py); only so DreamBooth's figures come out again (google/dreambooth issue 3).
DINO_MARGIN = 256 / 224
MULTIPLE_PX = 32  # that MaskFormer's pictures are sized to
# What of MaskFormer's queries is an object (arXiv 2107.06278, Sec. 3.4), with the numbers of
# transformers' post_process_panoptic_segmentation, whose class has another name in every version.
SURE = 0.5  # score of the query's class, "nothing" among the classes
INSIDE = 0.5  # of its mask
LEFT_OVER = 0.8  # share of that mask which surer queries leave to it
HIDDEN = 0.5  # grey of what is not compared
TORCHVISION = "torchvision"  # in place of a file: AlexNet as that package downloads it


def opened(kind: Any, where: str, *, weights: bool = True) -> Any:
    """A network, in float32 and frozen, or a tokenizer.

    Raises:
        ModelError: the folder does not contain one.
    """
    if Path(where).is_dir() or where.startswith((".", "/", "~")):
        found = from_folder(kind, Path(where), torch.float32 if weights else None)
    else:
        # Told nothing, transformers 5 keeps the precision of the file; older ones open in float32.
        given = {"use_safetensors": True, "torch_dtype": torch.float32} if weights else {}
        found = kind.from_pretrained(where, **given)
    return found.eval().requires_grad_(False) if weights else found


class Clip:
    """Pictures and texts in CLIP's space, unit vectors."""

    def __init__(self, where: str, device: str) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        self._network = opened(CLIPModel, where).to(device)
        self._tokenizer = opened(CLIPTokenizer, where, weights=False)

    @torch.no_grad()
    def of_images(self, images: Tensor) -> Tensor:
        """[n, D] of pictures [n, H, W, 3], 0..1."""
        network = self._network
        pixels = cut_square(images, network.config.vision_config.image_size).to(network.device)
        pooled = network.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(network.visual_projection(pooled), dim=-1).cpu()

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """[n, D]."""
        network = self._network
        length = network.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(network.device)
        pooled = network.text_model(**tokens).pooler_output
        return F.normalize(network.text_projection(pooled), dim=-1).cpu()


class Dino:
    """Pictures as DINO's CLS token, unit vectors."""

    def __init__(self, where: str, device: str) -> None:
        from transformers import ViTModel

        self._network = opened(ViTModel, where).to(device)

    @torch.no_grad()
    def of_images(self, images: Tensor, margin: float = DINO_MARGIN) -> Tensor:
        """[n, D] of pictures [n, H, W, 3], 0..1.

        Args:
            margin: how much larger a picture is made than what is cut from its middle; 1 shows all
                of a square one.
        """
        side = self._network.config.image_size
        shorter = round(side * margin)
        pixels = cut_square(images, side, shorter=shorter, mean=MEAN, std=STD)
        found = self._network(pixel_values=pixels.to(self._network.device)).last_hidden_state
        return F.normalize(found[:, 0], dim=-1).cpu()


def on_black(images: Tensor, masks: Tensor) -> Tensor:
    """[n, s, s, 3] what masks [n, H, W] mark in pictures [n, H, W, 3], all around it black.

    The shorter side gets black on both ends: a square is seen whole, whatever stands at its edge.
    """
    height, width = masks.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    room = (0, 0, left, side - width - left, top, side - height - top)  # from the last dimension
    return F.pad(images * masks[..., None], room)


class Cutter(Protocol):
    """Finds what class words name in a drawn picture."""

    def cut(self, image: Tensor, words: Sequence[str]) -> list[Tensor | None]:
        """For each word a mask [H, W], 0 or 1, of a picture [H, W, 3]; None where nothing is.

        A word that comes again gets the next object of its kind, the surest first.
        """
        ...


class MaskFormer:
    """The paper's cutter: objects to which a panoptic network trained on COCO gives a word's class.

    Words that name one class take turns at its objects.
    """

    def __init__(self, where: str, device: str) -> None:
        from transformers import MaskFormerForInstanceSegmentation

        self._network = opened(MaskFormerForInstanceSegmentation, where).to(device)

    def label_of(self, word: str) -> int:
        """Number of the class that a word names.

        Raises:
            ConfigError: the network does not know the word.
        """
        labels = {int(key): text.lower() for key, text in self._network.config.id2label.items()}
        wanted = word.strip().lower()
        exact = [key for key, text in labels.items() if text == wanted]
        within = [key for key, text in labels.items() if wanted in text.replace("-", " ").split()]
        if not exact and not within:
            raise ConfigError("word", word, "a class of MaskFormer's, such as cat; or use --sam")
        return [*exact, *within][0]

    @torch.no_grad()
    def cut(self, image: Tensor, words: Sequence[str]) -> list[Tensor | None]:
        labels = [self.label_of(word) for word in words]
        height, width = image.shape[:2]
        scale = min(DINO_PX / min(height, width), DINO_LONGEST_PX / max(height, width))
        sides = [MULTIPLE_PX * math.ceil(side * scale / MULTIPLE_PX) for side in (height, width)]
        pixels = normalised(image, (sides[0], sides[1])).to(self._network.device)
        output = self._network(pixel_values=pixels)
        shown = output.masks_queries_logits.sigmoid()
        shown = F.interpolate(shown, (height, width), mode="bilinear")[0].cpu()
        objects = segments(output.class_queries_logits[0].softmax(dim=-1).cpu(), shown)
        cut: list[Tensor | None] = []
        for i, label in enumerate(labels):
            its = [mask for found, mask in objects if found == label]
            nth = labels[:i].count(label)
            cut.append(its[nth] if nth < len(its) else None)
        return cut


def segments(classes: Tensor, masks: Tensor) -> list[tuple[int, Tensor]]:
    """Number of its class and mask [H, W], 0 or 1, of every object, the surest first.

    Args:
        classes: [Q, C + 1] probability of every query's class; the last is "nothing".
        masks: [Q, H, W], 0..1.
    """
    scores, labels = classes.max(dim=-1)
    order = scores.argsort(descending=True)
    order = order[(scores[order] >= SURE) & (labels[order] < classes.shape[-1] - 1)]
    if not len(order):
        return []
    inside = masks[order] >= INSIDE
    owner = (scores[order, None, None] * masks[order]).argmax(dim=0)
    found: list[tuple[int, Tensor]] = []
    for i, label in enumerate(labels[order].tolist()):
        own = inside[i] & (owner == i)
        if own.any() and own.sum() >= LEFT_OVER * inside[i].sum():
            found.append((label, own.float()))
    return found


class Words:
    """Grounding DINO and SAM: any word, where MaskFormer knows COCO's classes alone."""

    def __init__(self, detector: Path, segmenter: Path, device: str) -> None:
        self._detector = GroundingDino(detector, torch.device(device))
        self._segmenter = Sam(segmenter, torch.device(device))

    def cut(self, image: Tensor, words: Sequence[str]) -> list[Tensor | None]:
        return [self._nth(image, word, words[:i].count(word)) for i, word in enumerate(words)]

    def _nth(self, image: Tensor, word: str, before: int) -> Tensor | None:
        asked = [word] * (before + 1)
        try:
            return segment_words(image, asked, self._detector, self._segmenter)[before]
        except MaskError:
            return None


@dataclass(frozen=True, slots=True)
class Measures:
    """The networks that compare; `cutter` None leaves out what needs masks of drawn objects."""

    clip: Clip
    dino: Dino
    cutter: Cutter | None = None


def square_around(images: Tensor, mask: Tensor) -> Tensor:
    """[..., s, s, 3] of pictures [..., H, W, 3]: the smallest square that holds a mask [H, W].

    All that the square shows is there, also what the mask leaves out. It stays within the picture,
    moved where it would leave it; where the mask is longer than the shorter side, that side and the
    mask's middle.

    Args:
        mask: with something in it; what reaches half of its largest value counts.
    """
    inside = mask > 0.5 * mask.max()
    rows, columns = (torch.nonzero(inside.any(dim=d)).flatten().tolist() for d in (1, 0))
    height, width = mask.shape
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = min(side, height, width)
    top, left = (
        min(max((edge[0] + edge[-1] + 1 - side) // 2, 0), most - side)
        for edge, most in ((rows, height), (columns, width))
    )
    return images[..., top : top + side, left : left + side, :]


def outside(images: Tensor, mask: Tensor) -> Tensor:
    """Pictures [n, H, W, 3] with all grey that a mask [H, W] touches at all."""
    return torch.where(mask[..., None] > 0, torch.full_like(images, HIDDEN), images)


class Distance(Protocol):
    """Tells how unlike pictures look."""

    def between(self, images: Tensor, other: Tensor) -> Tensor:
        """[n] of pictures [n, H, W, 3] to another [1, H, W, 3]; 0 where nothing differs."""
        ...


class Lpips:
    """LPIPS 0.1 on AlexNet, from its authors' package, which brings the layers on top.

    The mean over the whole picture: what is alike in both adds nothing.

    Args:
        where: file of AlexNet's weights as torchvision has them (.pth or .safetensors), or
            "torchvision", which downloads them.

    Raises:
        ModelError: the package is missing, or the file does not contain them.
    """

    def __init__(self, where: str, device: str) -> None:
        try:
            import lpips
        except ImportError as error:
            raise ModelError(
                f"LPIPS is measured with a package that is not there ({error}): pip install lpips. "
                "It needs torchvision, of the version that goes with your torch."
            ) from error
        with warnings.catch_warnings():  # of the way in which it asks torchvision for AlexNet
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net="alex", pnet_rand=where != TORCHVISION, verbose=False)
        if where != TORCHVISION:
            _fill(network.net, Path(where))
        self._network, self._device = network.to(device).requires_grad_(False), device

    def between(self, images: Tensor, other: Tensor) -> Tensor:
        """[n], see `Distance`."""
        one, two = (x.movedim(-1, 1).to(self._device) for x in (images, other.expand_as(images)))
        with torch.no_grad():
            return self._network(one, two, normalize=True).flatten().cpu()


def _fill(trunk: Any, file: Path) -> None:
    """AlexNet's convolutions, which lpips keeps in slices under their numbers in torchvision."""
    try:
        if file.suffix == ".safetensors":
            kept = load_file(file)
        else:
            kept = torch.load(file, map_location="cpu", weights_only=True)
        trunk.load_state_dict(
            {name: kept[f"features.{name.partition('.')[2]}"] for name in trunk.state_dict()}
        )
    except (OSError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise ModelError(
            f"{file} does not contain AlexNet's weights in torchvision's form (alexnet-owt-*.pth): "
            f"{error!r}."
        ) from error
