"""The diffusers host: diffusers' UNet and VAE, transformers' text encoders."""

from .anima import AnimaHost
from .host import DiffusersHost

__all__ = ["AnimaHost", "DiffusersHost"]
