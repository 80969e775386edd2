"""Roles of weights by their canonical names, for every model family."""

from __future__ import annotations

from .families.anima import ADAPTER
from .families.clip import ENCODERS
from .families.family import TRANSFORMER
from .families.registry import check_learns as check_learns
from .families.registry import roles_in_transformers
from .families.unet import NETWORK, roles_in_unets
from .sites import Role as Role

NETWORKS = (NETWORK, TRANSFORMER)  # that draw; all others are text encoders


def roles_of(weight: str) -> frozenset[Role]:
    """What the layer of a weight or bias is for, by its canonical name."""
    if weight.startswith(f"{TRANSFORMER}."):
        return roles_in_transformers(weight)
    return roles_in_unets(weight)


def is_matrix(weight: str) -> bool:
    """Whether it is the weight of a layer, and not its bias."""
    return weight.endswith(".weight")


def text_encoder_of(weight: str) -> str:
    """The text encoder that a weight belongs to; "" for one of the network that draws."""
    network = weight.partition(".")[0]
    return "" if network in NETWORKS else network


def is_of_adapter(weight: str) -> bool:
    """Whether it belongs to what makes contexts of a text encoder's states (Anima)."""
    return weight.startswith(f"{TRANSFORMER}.{ADAPTER}.")


def encoders_in(fingerprint: str) -> set[str]:
    """Text encoders that the fingerprint of a base model names, of those that have a name here."""
    return {name for name in ENCODERS if name in fingerprint}


# Networks that concept files of the first format know.
FIRST_NETWORKS = (NETWORK, *ENCODERS)
