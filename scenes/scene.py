"""The training scene: pictures, a mask for each concept, and a word to start from."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..concepts.handles import checked_name
from ..errors import HandleError, ImageError, MaskError
from .mask_strength import emptiness, full_strength
from .masks import has_same_aspect, resize_masks
from .pictures import checked_picture, resize_picture, size_of_area

log = logging.getLogger("conceptloom")

LARGEST_OVERLAP = 0.95  # of the smaller mask; above it two concepts cannot be told apart


@dataclass(frozen=True, slots=True)
class SceneImage:
    """One picture and the masks of the concepts that it shows.

    Attributes:
        image: [H, W, 3], 0..1.
        masks: name of the concept -> [H, W], 0..1, 1 = belongs to it.
        remarks: name -> what was changed in its mask, for previews and reports; may lack names.
    """

    image: Tensor
    masks: Mapping[str, Tensor]
    remarks: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ConceptScene:
    """Pictures with named masks, checked.

    Attributes:
        images: at least one; each shows at least one concept.
        words: name of a concept -> initialiser word, "" for none.
    """

    images: tuple[SceneImage, ...]
    words: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Names of all concepts, in the order in which they were given."""
        return list(self.words)

    @property
    def remarks(self) -> list[str]:
        """What was changed in the masks, a sentence each."""
        return [
            f"The mask of <{name}>{f' in picture {n}' if len(self.images) > 1 else ''} {remark}."
            for n, picture in enumerate(self.images, 1)
            for name, remark in picture.remarks.items()
        ]


def make_scene(
    images: Sequence[Tensor],
    masks: Mapping[str, Sequence[Tensor | None]],
    words: Mapping[str, str],
    remarks: Mapping[str, Sequence[str]] | None = None,
) -> ConceptScene:
    """A checked scene.

    Args:
        images: pictures [H, W, C], 0..1, with 3 channels or 4 (the fourth is dropped).
        masks: name -> one mask [H, W] per picture, None where the picture does not show it. A mask
            of another size is resized (bilinear) when its shape has the picture's aspect within
            2 %, otherwise refused. A faint one is stretched, see `full_strength`.
        words: name -> initialiser word; names without one may be left out.
        remarks: name -> what the reader of each mask changed in it, "" for nothing.

    Raises:
        HandleError: a name is not a handle, comes twice, or has a word but no mask.
        ImageError: a picture is too small, has another channel count, or there is none.
        MaskError: a mask is empty, has another aspect ratio, covers the same pixels as another, or
            is a label picture of several classes.
    """
    if not images:
        raise ImageError("The scene has no picture: connect an image, or name one with --image.")
    if not masks:
        raise MaskError(
            "The scene has no mask: connect one for each concept, or name them with "
            "--mask NAME=FILE:WORD, such as my-mug=mug.png:cup."
        )
    named = {checked_name(name): list(of_name) for name, of_name in masks.items()}
    if len(named) != len(masks):
        raise HandleError(f"Two concepts have the same name among {', '.join(masks)}; rename one.")
    known = {checked_name(name): word.strip() for name, word in words.items()}
    if lost := [name for name in known if name not in named]:
        raise HandleError(
            f"<{lost[0]}> has a word but no mask; give it a mask, or remove the word."
        )
    for name, of_name in named.items():
        if len(of_name) != len(images):
            raise MaskError(
                f"<{name}> has {len(of_name)} masks for {len(images)} pictures; connect one for "
                "each picture, empty if a picture does not show it."
            )
    pictures = tuple(
        _scene_image(i, image, {name: of_name[i] for name, of_name in named.items()})
        for i, image in enumerate(images)
    )
    pictures = tuple(_with_remarks(i, p, remarks or {}) for i, p in enumerate(pictures))
    for name in named:
        if not any(name in picture.masks for picture in pictures):
            why = emptiness(next(m for m in named[name] if m is not None))
            raise MaskError(f"The mask of <{name}> is empty in every picture: {why}")
    scene = ConceptScene(pictures, {name: known.get(name, "") for name in named})
    for remark in scene.remarks:
        log.warning("%s", remark)
    return scene


def _with_remarks(
    index: int, picture: SceneImage, remarks: Mapping[str, Sequence[str]]
) -> SceneImage:
    of_reader = {checked_name(name): of_name[index] for name, of_name in remarks.items()}
    every = {name: remark for name, remark in of_reader.items() if remark} | dict(picture.remarks)
    return replace(picture, remarks=every)


def _scene_image(index: int, image: Tensor, masks: Mapping[str, Tensor | None]) -> SceneImage:
    image = checked_picture(index, image)
    height, width = image.shape[:2]
    resized, remarks = {}, {}
    for name, mask in masks.items():
        if mask is None:
            continue
        plane, remark = full_strength(_plane(name, mask), f"The mask of <{name}>")
        if not plane.any():
            continue
        fitted = _fitted_mask(name, plane, (height, width)).clamp(0, 1)
        if fitted.max() > 0:
            resized[name] = fitted
            remarks |= {name: remark} if remark else {}
    if not resized:
        connected = [mask for mask in masks.values() if mask is not None]
        why = (
            emptiness(connected[0]) if connected else "it has none. Add one, or remove the picture."
        )
        raise MaskError(f"Every mask of picture {index + 1} is empty: {why}")
    _check_overlaps(index, resized)
    return SceneImage(image, resized, remarks)


def _plane(name: str, mask: Tensor) -> Tensor:
    """[H, W] float32, 0..1."""
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2:
        raise MaskError(
            f"The mask of <{name}> has the shape {list(mask.shape)}; it must be height x width."
        )
    if not mask.isfinite().all():
        raise MaskError(
            f"The mask of <{name}> contains NaN or infinite values; check the node that made it."
        )
    return mask.float().clamp(0, 1)


def _fitted_mask(name: str, mask: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = mask.shape
    if (height, width) == size:
        return mask
    if not has_same_aspect((height, width), size):
        raise MaskError(
            f"The mask of <{name}> is {width}x{height} px but its picture is {size[1]}x{size[0]} "
            "px, a different aspect ratio; crop or pad the mask to the picture. (A mask with the "
            "same aspect ratio is resized.)"
        )
    return resize_masks(mask[None], size)[0]


def _check_overlaps(index: int, masks: Mapping[str, Tensor]) -> None:
    for (a, first), (b, second) in itertools.combinations(masks.items(), 2):
        smaller = min(float(first.sum()), float(second.sum()))
        shared = float(torch.minimum(first, second).sum()) / smaller
        if shared > LARGEST_OVERLAP:
            raise MaskError(
                f"The masks of <{a}> and <{b}> cover the same pixels in picture {index + 1} "
                f"({shared:.0%} of the smaller one); training could not separate the two words. "
                "Paint them apart, or learn them as one concept."
            )
        if shared > 0.3:
            log.warning("masks of <%s> and <%s> overlap by %.0f %%", a, b, 100 * shared)


def with_background(scene: ConceptScene, name: str, word: str = "") -> ConceptScene:
    """The scene with one concept more: all that no mask covers (paper Sec. 4.2).

    Raises:
        MaskError: the masks leave no background in any picture.
    """
    name = checked_name(name)
    if name in scene.words:
        raise HandleError(f"The background cannot be <{name}>: a concept already has that name.")
    pictures = []
    for picture in scene.images:
        rest = 1 - torch.stack(list(picture.masks.values())).amax(dim=0)
        all_masks = {**picture.masks, name: rest} if rest.max() > 0 else picture.masks
        pictures.append(replace(picture, masks=all_masks))
    if not any(name in picture.masks for picture in pictures):
        raise MaskError("The masks cover every pixel, so there is no background to learn.")
    return ConceptScene(tuple(pictures), {**scene.words, name: word})


def resized_scene(scene: ConceptScene, resolution_px: int, multiple_px: int) -> ConceptScene:
    """Pictures and masks at the size to learn at.

    Args:
        resolution_px: side of the square with the wanted area; 0 keeps the size.
        multiple_px: both sides become multiples of it (pixels per latent, or more). The short side
            is one of the two around its wanted length, whichever keeps the aspect better.

    Raises:
        ImageError: pictures differ in size, so that they cannot share a batch.
    """
    sizes = {size_of_area(p.image.shape[:2], resolution_px, multiple_px) for p in scene.images}
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise ImageError(
            f"The pictures have different sizes ({listed}); crop them to one size first."
        )
    size = sizes.pop()

    pictures = [
        replace(
            p,
            image=resize_picture(p.image, size),
            masks={
                name: resize_picture(mask[..., None], size)[..., 0]
                for name, mask in p.masks.items()
            },
        )
        for p in scene.images
    ]
    return ConceptScene(tuple(pictures), scene.words)
