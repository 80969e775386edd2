"""TinyWorld's diffusion prior, of Kandinsky's class, and its image encoder.

An image encoder and a projection of the text encoder's end token were trained against each other as
CLIP is, then a prior from prompt to picture embedding. `recipe.prior` makes the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ModelError
from .model import ModelConfig
from .prior_vision import TinyVision

if TYPE_CHECKING:
    from diffusers import PriorTransformer, UnCLIPScheduler

FORMAT, FORMAT_VERSION = "conceptloom.tinyworld.prior", 1
WEIGHTS = Path(__file__).parent / "prior.safetensors"
# ConceptLab's sentences in the few words that this world knows.
SENTENCES = ("a photo of a {concept}", "a picture of a {concept}", "an image of a {concept}")
GALLERY = ("a photo of a {concept}", "a photo of a {concept} on the grass")
HOW = "python -m conceptloom.tinyworld.recipe.prior --install"


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorSizes:
    """Sizes of both networks; together 0.5 MB in float16."""

    width: int = ModelConfig().context_dim  # of embeddings and of the text encoder
    prior_inner: int = 60
    prior_layers: int = 2
    prior_heads: int = 2
    tokens: int = 40  # of a prompt that the prior reads; the world's sentences have 25 at most
    image_px: int = 64  # at which the image encoder sees a picture
    vision_channels: tuple[int, ...] = (16, 32, 48, 48)
    vision_squeezed: int = 16


@dataclass(frozen=True, kw_only=True)
class TinyPrior:
    """The networks; the prior is of diffusers' own class.

    Attributes:
        projection: [width, width] what the end token's state is multiplied with.
        figures: of its training, such as the mean cosine of a picture with its own caption.
    """

    prior: PriorTransformer
    vision: TinyVision
    projection: Tensor
    scheduler: UnCLIPScheduler
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def clamps(self) -> tuple[float, float]:
        """(ceiling of positives, floor of negatives) that mean in this space what 0.28 and 0.20
        mean in CLIP's: as near as a picture is to its caption, as far as it is from another's."""
        return self.figures.get("matched", 1.0), self.figures.get("unmatched", -1.0)


def build_prior(sizes: PriorSizes | None = None) -> TinyPrior:
    """Freshly initialised networks.

    Raises:
        ModelError: diffusers is not installed.
    """
    sizes = sizes or PriorSizes()
    try:
        from diffusers import PriorTransformer, UnCLIPScheduler
    except ImportError as error:
        raise ModelError(
            "TinyWorld's prior needs diffusers: pip install 'diffusers>=0.32' in the environment "
            "of this program."
        ) from error
    prior = PriorTransformer(
        num_attention_heads=sizes.prior_heads,
        attention_head_dim=sizes.prior_inner // sizes.prior_heads,
        num_layers=sizes.prior_layers,
        embedding_dim=sizes.width,
        num_embeddings=sizes.tokens,
    )
    vision = TinyVision(
        sizes.image_px, tuple(sizes.vision_channels), sizes.vision_squeezed, sizes.width
    )
    # As Kandinsky's: the embedding itself is predicted, and clipped to five standard deviations.
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )
    projection = torch.eye(sizes.width)
    return TinyPrior(prior=prior, vision=vision, projection=projection, scheduler=scheduler)


def write_prior(made: TinyPrior, sizes: PriorSizes, path: Path = WEIGHTS) -> None:
    """Write everything in float16."""
    from dataclasses import asdict

    from safetensors.torch import save_file

    tensors = {"projection": made.projection}
    for name, network in (("prior", made.prior), ("vision", made.vision)):
        state = network.state_dict()
        tensors |= {f"{name}.{k}": v for k, v in state.items() if not k.endswith("position_ids")}
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "sizes": json.dumps(asdict(sizes)),
        "figures": json.dumps(made.figures),
    }
    halved = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    save_file(halved, str(path), metadata)


def load_tiny_prior(path: Path = WEIGHTS) -> TinyPrior:
    """The bundled prior, float32, frozen, in eval mode.

    Raises:
        ModelError: the file is not there, or another kind of file.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise ModelError(f"TinyWorld's prior {path} is not there; make it with: {HOW}")
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT or int(metadata["format_version"]) > FORMAT_VERSION:
            raise ModelError(f"{path.name} is no TinyWorld prior of this version; remake it: {HOW}")
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    made = build_prior(PriorSizes(**json.loads(metadata["sizes"])))
    for name, network in (("prior", made.prior), ("vision", made.vision)):
        prefix = f"{name}."
        part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        _fill(network, part, path)
        network.eval().requires_grad_(False)
    return TinyPrior(
        prior=made.prior,
        vision=made.vision,
        projection=tensors["projection"],
        scheduler=made.scheduler,
        figures=json.loads(metadata["figures"]),
    )


def _fill(network: Any, state: dict[str, Tensor], path: Path) -> None:
    lost, odd = network.load_state_dict(state, strict=False)
    lost = [name for name in lost if not name.endswith("position_ids")]
    if lost or odd:
        raise ModelError(f"{path.name} does not fit its own sizes ({[*lost, *odd][0]}): {HOW}")
