"""The oracle's verdicts on pictures with learned concepts; it knows TinyWorld's ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...attention.capture import read_attention
from ...host.ports import HandleVectors, Host
from ...tinyworld.concepts import CONCEPTS, concept_scene
from ...tinyworld.measures import Localisation, localisation
from ...tinyworld.oracle import Identity, Oracle, load_oracle
from ...tinyworld.world import Scene

ELSEWHERE_SEED = 7  # of the pictures that show the other objects, and of unseen arrangements


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the oracle sees in one drawn picture.

    Attributes:
        identities: of every concept that the prompt asks for.
        leaked: concepts of the scene that were not asked for, or came more than once.
        background: a key of `tinyworld.shapes.BACKGROUNDS`.
    """

    identities: Mapping[str, Identity]
    leaked: Sequence[str]
    background: str

    @property
    def is_right(self) -> bool:
        """Every requested concept is there, and no other one."""
        return all(identity.right for identity in self.identities.values()) and not self.leaked

    @property
    def summary(self) -> str:
        """What is there, what is missing and what is too much."""
        names = self.identities.items()
        present = [f"<{name}>" for name, identity in names if identity.right]
        missing = [f"<{name}>" for name, identity in names if not identity.right]
        parts = [f"{', '.join(present)} found"] if present else []
        parts += [f"{', '.join(missing)} not found"] if missing else []
        parts += [f"<{name}> too much" for name in self.leaked]
        return "; ".join(parts)


class Judge:
    """Compares drawn pictures with the objects of a rendered scene.

    Args:
        truth: the scene that was taught.
        handles: handle of each of its objects, in order.

    Identity is judged among all unseen objects of the world: the taught ones as the taught picture
    shows them, the others as distractors.
    """

    def __init__(self, truth: Scene, handles: Sequence[str], oracle: Oracle | None = None) -> None:
        self._oracle = oracle or load_oracle()
        self._handles = list(handles)
        taught = {item.words for item in truth.items}
        self._references = {
            handle: self._oracle.reference(truth.image, mask)
            for handle, mask in zip(handles, truth.masks, strict=True)
        }
        for name in CONCEPTS:
            if name not in taught:
                other = concept_scene([name], seed=ELSEWHERE_SEED)
                reference = self._oracle.reference(other.image, other.masks[0])
                self._references[f"another: {name}"] = reference

    def look(self, image: Tensor, expected: Sequence[str]) -> Verdict:
        """Verdict on a picture [H, W, 3], 0..1."""
        seen = self._oracle.leaked(image, self._references, expected)
        return Verdict(
            {name: self._oracle.identity(image, self._references, name) for name in expected},
            [name for name in seen if name in self._handles],
            self._oracle.background(image),
        )


def word_localisation(
    host: Host, vectors: HandleVectors, handles: Sequence[str], truth: Scene
) -> dict[str, Localisation]:
    """Where each handle looks in a rendered picture, against the exact masks.

    Args:
        handles: of the objects of `truth`, in order; the prompt names all of them.
    """
    words = [f"<{name}>" for name in handles]
    prompt = host.encode_prompt("a photo of " + " and ".join(words), vectors)
    latent = host.encode_image(as_image(truth.image)[None])
    maps = read_attention(host, latent, prompt, words)
    return {
        name: localisation(heat, mask)
        for name, heat, mask in zip(handles, maps.values(), truth.masks, strict=True)
    }


def as_image(pixels: np.ndarray) -> Tensor:
    """[H, W, 3], 0..1, of a rendered picture."""
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return sum(values) / len(values) if values else float("nan")
