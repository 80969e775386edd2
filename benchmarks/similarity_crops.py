"""What a mask marks, cut out as a square, and how much has changed around it.

LPIPS: Zhang et al. 2018, arXiv 1801.03924.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from conceptloom.errors import ModelError

HIDDEN = 0.5  # grey of what is not compared
TORCHVISION = "torchvision"  # in place of a file: AlexNet as that package downloads it


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
