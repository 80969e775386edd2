"""Networks wait on the CPU, and two residences may share one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from conceptloom.vision.offload import OffloadedModules

GPU, HOME = torch.device("cuda", 0), torch.device("cpu")


class Traveller:
    """Says where it is and where it went: a second device is not on every machine."""

    def __init__(self) -> None:
        self.at, self.journeys = HOME, list[str]()

    def parameters(self) -> Any:
        return iter([SimpleNamespace(device=self.at)])

    def to(self, device: torch.device) -> None:
        self.at = device
        self.journeys.append(device.type)

    def requires_grad_(self, wanted: bool) -> Traveller:
        return self

    def eval(self) -> Traveller:
        return self


def test_a_network_travels_only_where_it_is_not() -> None:
    network = Traveller()
    offloaded = OffloadedModules([network], torch.device("cuda"))
    offloaded.offload()
    offloaded.onload()
    offloaded.onload()
    assert network.journeys == ["cuda"]
    OffloadedModules([network], HOME).onload()
    assert network.at == HOME


def test_what_another_residence_sent_away_comes_back() -> None:
    """Kandinsky 2.1's text encoder compares constraints beside the prior, and draws."""
    shared, own = Traveller(), Traveller()
    prior, image_generator = OffloadedModules([own, shared], GPU), OffloadedModules([shared], GPU)
    prior.onload()
    image_generator.onload()
    image_generator.offload()
    prior.onload()
    assert (own.journeys, shared.journeys) == (["cuda"], ["cuda", "cpu", "cuda"])


def test_room_is_made_for_what_comes_and_for_nothing_else() -> None:
    """On the meta device, which is not the CPU and takes no memory."""
    asked, layer = [], torch.nn.Linear(3, 2)
    meta = torch.device("meta")
    offloaded = OffloadedModules(
        [layer], meta, lambda needed, device: asked.append((needed, device))
    )
    offloaded.onload()
    assert asked == [((3 * 2 + 2) * 4, meta)]
    offloaded.onload()
    assert len(asked) == 1


def test_frozen_networks_ask_for_no_gradient() -> None:
    layer = torch.nn.Linear(2, 2)
    OffloadedModules([layer], HOME)
    assert not any(weight.requires_grad for weight in layer.parameters())
    assert not layer.training


def test_a_module_without_weights_is_everywhere() -> None:
    offloaded = OffloadedModules([torch.nn.Identity()], HOME)
    offloaded.onload()
    offloaded.offload()
