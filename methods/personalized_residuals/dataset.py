"""The training data: pictures of one concept with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...concepts.handles import checked_name
from ...errors import ImageError, PromptError
from ...host.ports import Host, Progress, no_progress
from ...host.prompt_text import handles_in
from ...scenes.pictures import SMALLEST_PX, checked_picture, cut_middle, resize_picture
from ...training.scene_recipe import PictureEncoder

PLACE = "{}"  # of the concept in the prompt of the settings


@dataclass(frozen=True, slots=True)
class SubjectDataset:
    """Checked pictures of one concept, from `make_dataset`.

    Attributes:
        images: [H, W, 3] each, 0..1, of one size.
        handle: V* of the paper, without brackets.
        class_word: macro class of the concept, one word or several.
        captions: one for each picture; every one holds the handle.
    """

    images: tuple[Tensor, ...]
    handle: str
    class_word: str
    captions: tuple[str, ...]

    @property
    def phrase(self) -> str:
        """The concept as prompts name it."""
        return f"<{self.handle}> {self.class_word}".strip()


def make_dataset(
    images: Sequence[Tensor],
    handle: str,
    class_word: str,
    captions: Sequence[str] = (),
    *,
    prompt: str,
    resolution_px: int = 0,
    multiple_px: int = 8,
) -> SubjectDataset:
    """A checked dataset.

    Args:
        images: [H, W, 3] each (a fourth channel is dropped), 0..1; one or many.
        class_word: what kind of thing it is, for example "cat"; may be empty.
        captions: one for each picture, or none at all; {} stands for the handle and class word.
        prompt: caption of pictures that have none.
        resolution_px: side of the square cut from the middle; 0 keeps the size, which then has to
            be the same for all pictures.
        multiple_px: sides become multiples of it (pixels per latent).

    Raises:
        ImageError: there is no picture, or one is too small, of another size or not RGB.
        PromptError: a caption does not contain the handle, or there are too few of them.
        HandleError: the handle cannot be one.
    """
    if not images:
        raise ImageError("No picture is connected; connect at least one.")
    name = checked_name(handle)
    concept = f"<{name}> {class_word.strip()}".strip()
    if captions and len(captions) != len(images):
        raise PromptError(
            f"{len(captions)} captions came for {len(images)} pictures; write one line per "
            f"picture, or none to use {prompt!r} for all."
        )
    texts = [caption.replace(PLACE, concept) for caption in captions or [prompt] * len(images)]
    if lost := [text for text in texts if name not in handles_in(text)]:
        raise PromptError(
            f"The caption {lost[0]!r} does not contain <{name}>; write <{name}> or {PLACE} in "
            "place of the concept."
        )
    fitted = [_fitted(i, image, resolution_px, multiple_px) for i, image in enumerate(images)]
    sizes = {tuple(image.shape[:2]) for image in fitted}
    if len(sizes) > 1:
        sides = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ImageError(
            f"The pictures have different sizes ({sides}); set resolution_px to crop a square "
            "from each, or crop them to one size first."
        )
    return SubjectDataset(tuple(fitted), name, class_word.strip(), tuple(texts))


def _fitted(index: int, image: Tensor, resolution_px: int, multiple_px: int) -> Tensor:
    image = checked_picture(index, image, max(SMALLEST_PX, multiple_px))
    height, width = image.shape[:2]
    if resolution_px:
        scale = resolution_px / min(height, width)
        height, width = (max(resolution_px, round(side * scale)) for side in (height, width))
        image = resize_picture(image, (height, width))
        height = width = max(multiple_px, resolution_px)
    rows, columns = (side // multiple_px * multiple_px for side in (height, width))
    return cut_middle(image, (rows, columns))


class SubjectLatents:
    """Latents of all pictures, plain and mirrored, made once."""

    def __init__(
        self,
        host: Host,
        images: Sequence[Tensor],
        *,
        mirrored: bool,
        progress: Progress = no_progress,
    ) -> None:
        turns = (False, True) if mirrored else (False,)
        encode = PictureEncoder(host, len(turns) * len(images), progress)
        self._latents = [
            {turned: encode(_turned(image, turned)) for turned in turns} for image in images
        ]

    def __getitem__(self, drawn: Sequence[tuple[int, bool]]) -> Tensor:
        """[B, C, h, w] of (picture, mirrored) each."""
        return torch.stack([self._latents[image][mirrored] for image, mirrored in drawn])


def _turned(image: Tensor, mirrored: bool) -> Tensor:
    return image.flip(1) if mirrored else image
