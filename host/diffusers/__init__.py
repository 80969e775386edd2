"""The diffusers host: diffusers' UNet and VAE, transformers' text encoders."""

from .anima import AnimaHost
from .host import DiffusersHost
from .single_host import SingleStreamHost

__all__ = ["AnimaHost", "DiffusersHost", "SingleStreamHost"]
