"""The judge's two small networks: one finds the objects of a picture, one describes an object."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, Linear, functional

from ..shapes import BACKGROUNDS
from .words import FORMS, HEADS

SIDE = 64  # px; the finder sees every picture at this size
PICTURE = 128  # px; crops are cut from the picture at this size
CROP = 48  # px; every object is brought to this size
VOTE_UNIT = 4  # votes count in this part of a picture's side
EMBEDDING = 96
FEATURES = 160


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, SiLU."""
    return nn.Sequential(Conv2d(inputs, outputs, 3, stride, 1), GroupNorm(4, outputs), nn.SiLU())


class Finder(nn.Module):
    """Where the objects are, and which background lies behind them."""

    def __init__(self, widths: tuple[int, int, int, int] = (16, 24, 32, 48)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.first = layer(3, a)
        self.down1 = nn.Sequential(layer(a, b, 2), layer(b, b))
        self.down2 = nn.Sequential(layer(b, c, 2), layer(c, c))
        self.down3 = nn.Sequential(layer(c, d, 2), layer(d, d))
        self.up2 = layer(d + c, c)
        self.up1 = layer(c + b, b)
        self.up0 = layer(b + a, a)
        self.mask = Conv2d(a, 1, 1)
        self.background = Linear(d + 6, len(BACKGROUNDS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, 64, 64] in 0..1 -> mask logits [B, 64, 64], background logits [B, 8]."""
        mask, features = self.look(x)
        return mask, self.background(features)

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits [B, 64, 64], and what the background is read from, [B, widths[3] + 6].

        That is the deepest layer's mean, and mean and spread of the colours beside the objects:
        the norms inside take a dark picture's brightness away.
        """
        finest, deepest = self._features(x)
        mask = self.mask(finest)
        return mask[:, 0], self._ground(x, mask, deepest)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The finest layer [B, widths[0], 64, 64] and the deepest layer's mean [B, widths[3]]."""
        a = self.first(x - 0.5)
        b = self.down1(a)
        c = self.down2(b)
        d = self.down3(c)
        c = self.up2(torch.cat([functional.interpolate(d, scale_factor=2.0), c], 1))
        b = self.up1(torch.cat([functional.interpolate(c, scale_factor=2.0), b], 1))
        a = self.up0(torch.cat([functional.interpolate(b, scale_factor=2.0), a], 1))
        return a, d.mean((2, 3))

    def _ground(self, x: Tensor, mask: Tensor, deepest: Tensor) -> Tensor:
        beside = (mask < 0).float()
        count = beside.sum((2, 3)).clamp(min=1)
        mean = (x * beside).sum((2, 3)) / count
        spread = ((x - mean[..., None, None]).square() * beside).sum((2, 3)) / count
        return torch.cat([deepest, 10 * mean, 10 * spread.sqrt()], 1)


class VotingFinder(Finder):
    """A finder in which every pixel says where the middle of its object is.

    So an object of two pieces, a sail and a hull, stays one, and two that touch stay two.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (16, 24, 32, 48)) -> None:
        super().__init__(widths)
        self.votes = Conv2d(widths[0], 2, 1)

    def see(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 3, 64, 64] in 0..1 -> mask logits [B, 64, 64], votes, background logits [B, 8].

        Votes [B, 2, 64, 64] are the way (x, y) to the middle of the pixel's object, in quarters of
        the picture's side; they say nothing where no object is.
        """
        finest, deepest = self._features(x)
        mask = self.mask(finest)
        background = self.background(self._ground(x, mask, deepest))
        return mask[:, 0], self.votes(finest), background


class Describer(nn.Module):
    """What one object looks like: an embedding for identity, and words."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),  # [B, 16, 24, 24]
            layer(16, 48),
            layer(48, 64, 2),
            layer(64, 96),
            layer(96, 128, 2),
            layer(128, 128),
            nn.AvgPool2d(2),  # [B, 128, 3, 3]
            nn.Flatten(),
            Linear(128 * 9, FEATURES),
            nn.SiLU(),
        )
        self.embedding = Linear(FEATURES, EMBEDDING)
        self.words = Linear(FEATURES, sum(len(words) for words in HEADS.values()))
        self.forms = Linear(FEATURES, len(FORMS))

    def forward(self, crops: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Crops [B, 4, 48, 48] of `crop_object` -> embedding, words, forms.

        Returns:
            embedding: [B, 96]  unit length; the same member has nearly the same.
            words:     head of `HEADS` -> [B, words]  logits.
            forms:     [B, forms]  logits of `FORMS`; those of another class say nothing.
        """
        features = self.body(crops - 0.5)
        sizes = [len(words) for words in HEADS.values()]
        words = dict(zip(HEADS, self.words(features).split(sizes, 1), strict=True))
        embedding = functional.normalize(self.embedding(features).float(), dim=1)
        return embedding, words, self.forms(features)


def crop_object(image: Tensor, mask: Tensor, side: int = CROP, margin: float = 0.08) -> Tensor:
    """The object on gray, centred and scaled to [4, side, side]; the fourth channel is its mask.

    Args:
        image:  [3, S, S]  0..1.
        mask:   [S, S]  0..1, not empty above 0.5.
        margin: room on each side, share of the object's longer side.
    """
    rows, columns = torch.where(mask > 0.5)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    half = max(bottom - top, right - left) * (0.5 + margin)
    size = image.shape[-1]
    at = torch.linspace(-half, half, side + 1)[:-1] + half / side
    y, x = (top + bottom) / 2 + at, (left + right) / 2 + at
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None] * 2 / size - 1
    soft = mask[None]
    framed = torch.cat([image * soft + 0.5 * (1 - soft), soft])[None]
    inside = torch.cat([framed[:, :3] - 0.5, framed[:, 3:]], 1)  # so that padding is gray too
    cut = functional.grid_sample(inside, grid.float(), align_corners=False)[0]
    return torch.cat([cut[:3] + 0.5, cut[3:]])
