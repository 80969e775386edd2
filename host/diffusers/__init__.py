"""The diffusers host: diffusers' UNet and VAE, transformers' text encoders."""

from .host import DiffusersHost

__all__ = ["DiffusersHost"]
