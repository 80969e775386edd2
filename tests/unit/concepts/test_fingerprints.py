"""Keys of runs, and digests of base models: whatever counts changes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from conceptloom.concepts.fingerprints import content_key, model_digest, modules_digest

from ..fake_host import FakeHost


@dataclass(frozen=True)
class Settings:
    rate: float = 1e-3
    words: tuple[str, ...] = ("cat",)


def variants() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    image, mask = torch.zeros(4, 4, 3), torch.ones(4, 4)
    yield "m", Settings(), {"images": [image], "masks": [mask]}
    yield "other", Settings(), {"images": [image], "masks": [mask]}
    yield "m", replace(Settings(), rate=2e-3), {"images": [image], "masks": [mask]}
    yield "m", replace(Settings(), words=("dog",)), {"images": [image], "masks": [mask]}
    yield "m", Settings(), {"images": [image + 1e-3], "masks": [mask]}
    yield "m", Settings(), {"images": [image, image], "masks": [mask]}
    yield "m", Settings(), {"images": [image], "masks": [1 - mask]}
    yield "m", Settings(), {"images": [image], "masks": [mask.reshape(2, 8)]}
    yield "m", Settings(), {"images": [image], "masks": [mask], "prior": [image]}


def test_every_input_counts_in_the_key() -> None:
    keys = [content_key(*variant) for variant in variants()]
    assert len(set(keys)) == len(keys)
    assert keys == [content_key(*variant) for variant in variants()]


def test_two_models_of_one_family_differ() -> None:
    host, other = FakeHost(), FakeHost()
    assert model_digest(host) == model_digest(other)
    other.weights["unet.input_blocks.1.1.proj_in.weight"][0, 0] += 1e-3
    assert model_digest(host) != model_digest(other)


def test_networks_differ_by_title_and_by_a_weight() -> None:
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)
    digest = modules_digest("prior", [first, second])
    assert modules_digest("prior", [first, second]) == digest
    assert modules_digest("decoder", [first, second]) != digest
    with torch.no_grad():
        second.weight[0, 0] += 1e-3
    assert modules_digest("prior", [first, second]) != digest
