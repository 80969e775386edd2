"""Requirements for a picture before VAE encoding."""

from __future__ import annotations

from torch import Tensor

from ..errors import ImageError


def check_picture(image: Tensor, pixels_per_latent: int) -> None:
    """ImageError unless latents [B, C, h, w] cover a picture [B, H, W, 3 or more] exactly."""
    if image.ndim != 4 or image.shape[-1] < 3:
        raise ImageError(
            f"The picture has the shape {list(image.shape)}; it must be batch x height x width x 3."
        )
    height, width, side = *image.shape[1:3], pixels_per_latent
    if height % side or width % side or min(height, width) < side:
        raise ImageError(
            f"The picture is {width}x{height} px; its sides must be multiples of {side}. "
            "Resize or crop it first."
        )


def planes_of(image: Tensor) -> Tensor:
    """[B, 3, H, W] of a picture [B, H, W, 3 or more], plane after plane in memory.

    Where the channels of a pixel lie together instead, torch's group norm on the CPU takes the
    variance from two sums, and a VAE loses four digits on flat areas.
    """
    return image[..., :3].movedim(-1, 1).contiguous()
