"""The oracle's two small networks: one finds the objects of a picture, one describes an object.

Trained on the renderer alone (`oracle_training`); together about 0.3 MB in float16.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import Linear, functional

from .judge.networks import SIDE, Finder, layer
from .judge.networks import crop_object as crop_at
from .shapes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

CROP = 32  # px; every found object is brought to this size
EMBEDDING = 64
OTHER = "other"  # no colour or shape of the vocabulary
COLOUR_NAMES = (*COLOURS, OTHER)
SHAPE_NAMES = (*SHAPES, OTHER)
TEXTURE_NAMES = TEXTURES
BACKGROUND_NAMES = tuple(BACKGROUNDS)
__all__ = ["SIDE", "Finder"]  # shared with the judge
WEIGHTS = Path(__file__).parent / "oracle.safetensors"


class Describer(nn.Module):
    """What one object looks like: an embedding for identity, and the vocabulary's words."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            layer(4, 24), layer(24, 32, 2), layer(32, 48), layer(48, 64, 2), layer(64, 64, 2)
        )
        self.embedding = Linear(64 * 16, EMBEDDING)
        self.colour = Linear(EMBEDDING, len(COLOUR_NAMES))
        self.shape = Linear(64 * 16, len(SHAPE_NAMES))
        self.texture = Linear(64 * 16, len(TEXTURE_NAMES))

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """[B, 4, 32, 32] (colours 0..1 and mask) -> unit embedding [B, 64] and word logits."""
        flat = self.body(crops - 0.5).flatten(1)
        embedding = functional.normalize(self.embedding(flat), dim=1)
        return {
            "embedding": embedding,
            "colour": self.colour(8 * embedding),
            "shape": self.shape(flat),
            "texture": self.texture(flat),
        }


def crop_object(image: Tensor, mask: Tensor) -> Tensor:
    """The object on gray, centred and scaled to [4, 32, 32]; the fourth channel is its mask."""
    return crop_at(image, mask, CROP)
