"""Latents and masks of every view of a scene, encoded once before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import MaskError
from ...host.ports import Host, Progress, no_progress
from ...rng import bernoulli, randint
from ...scenes.masks import erode, mask_on_grid
from ...scenes.scene import ConceptScene, SceneImage
from ...training.scene_recipe import PictureEncoder
from .config import CLiCConfig, Form
from .views import View, n_views, views_of

WHOLE = 0.999  # of a cell that lies in the picture, rounding aside
BLANK = 0.5  # what stands around the region, 0..1: zero in the VAE's -1..1 (learning.py:105)


@dataclass(frozen=True, slots=True)
class ViewSample:
    """One row of a batch: a view of a picture, one concept, and the prompts that go with it."""

    image: int
    mirrored: bool
    view: int
    name: str
    prompt: str
    roi_prompt: str


@dataclass(frozen=True, slots=True)
class EncodedView:
    """A view on the grid of the latents.

    Attributes:
        latent: [C, h, w] clean latents.
        masks: name -> [h, w], 0..1.
        regions: name -> [C, h, w] latents of the region on blank pixels; official form only.
        valid: [h, w], 1 where the loss of the whole picture counts.
        prefix: see `View`.
    """

    latent: Tensor
    masks: Mapping[str, Tensor]
    regions: Mapping[str, Tensor]
    valid: Tensor
    prefix: str


class SceneViews:
    """All views of all pictures of a scene."""

    def __init__(
        self,
        host: Host,
        scene: ConceptScene,
        config: CLiCConfig,
        progress: Progress = no_progress,
    ) -> None:
        self._config = config
        mirrors = [m for m in (False, True) if (config.flip > 0 if m else config.flip < 1)]
        encode = PictureEncoder(host, len(mirrors) * _n_encoded(scene, config), progress)
        self._views = [  # by picture, then by whether they are mirrored
            {m: _encoded(encode, picture, config, number, m) for m in mirrors}
            for number, picture in enumerate(scene.images)
        ]

    def draw(self, generator: torch.Generator) -> ViewSample:
        """A picture, mirrored or not, one of its views, one of its concepts, and its prompts."""
        config, image = self._config, randint(len(self._views), generator)
        mirrored = bernoulli(config.flip, generator)
        number = randint(len(self._views[image][mirrored]), generator)
        view = self._views[image][mirrored][number]
        name = list(view.masks)[randint(len(view.masks), generator)]
        prompts = config.roi_prompts_of(name)
        roi_prompt = prompts[randint(len(prompts), generator)]
        return ViewSample(
            image, mirrored, number, name, view.prefix + config.prompt_of(name), roi_prompt
        )

    def _of(self, sample: ViewSample) -> EncodedView:
        return self._views[sample.image][sample.mirrored][sample.view]

    def latents(self, samples: Sequence[ViewSample]) -> Tensor:
        """[B, C, h, w] clean latents of the whole pictures."""
        return torch.stack([self._of(s).latent for s in samples])

    def regions(self, samples: Sequence[ViewSample]) -> Tensor:
        """[B, C, h, w] clean latents of the regions on blank pixels."""
        return torch.stack([self._of(s).regions[s.name] for s in samples])

    def masks(self, samples: Sequence[ViewSample]) -> Tensor:
        """[B, 1, h, w] mask of each drawn concept."""
        return torch.stack([self._of(s).masks[s.name][None] for s in samples])

    def valid(self, samples: Sequence[ViewSample]) -> Tensor:
        """[B, 1, h, w] 1 where there is a picture."""
        return torch.stack([self._of(s).valid[None] for s in samples])


def _n_encoded(scene: ConceptScene, config: CLiCConfig) -> int:
    """Pictures that go through the VAE, mirrored ones apart; some views may show no concept."""
    regions = [len(picture.masks) if _cuts(config) else 0 for picture in scene.images]
    return sum(n_views(config) * (1 + n) for n in regions)


def _cuts(config: CLiCConfig) -> bool:
    """Whether regions are encoded by themselves, on blank pixels."""
    return config.roi_form is Form.OFFICIAL and config.roi_weight > 0


def _encoded(
    encode: PictureEncoder, picture: SceneImage, config: CLiCConfig, number: int, mirrored: bool
) -> list[EncodedView]:
    views = views_of(picture, config, number, mirrored)
    encoded = [_encoded_view(encode, view, config) for view in views]
    # An enlarged copy may show a part of the picture without the concept; it teaches nothing.
    usable = [view for view in encoded if view.masks]
    if not usable:
        raise MaskError(
            f"The masks of picture {number + 1} are empty in all its scaled copies; turn "
            "random_scale off, or raise views."
        )
    return usable


def _encoded_view(encode: PictureEncoder, view: View, config: CLiCConfig) -> EncodedView:
    latent = encode(view.image)
    size = tuple(latent.shape[-2:])
    visible_masks = {name: mask for name, mask in view.masks.items() if mask.max() > 0}
    regions = {}
    if _cuts(config):
        for name, mask in visible_masks.items():
            cut = view.image * mask[..., None] + BLANK * (1 - mask[..., None])
            regions[name] = encode(cut)
    masks = {
        n: mask_on_grid(m, size, "bilinear").to(latent.device) for n, m in visible_masks.items()
    }
    valid = (mask_on_grid(view.valid, size, "bilinear") > WHOLE).float()
    if config.context_form is Form.OFFICIAL:
        # Excludes the outermost cells (learning.py:229-231); the code keeps those of larger copies.
        valid = erode(valid, 1, beyond=0)
    return EncodedView(latent, masks, regions, valid.to(latent.device), view.prefix)
