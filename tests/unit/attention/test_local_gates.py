"""What a layer of localised LoRAs multiplies: the same numbers, and no more of them than needed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from conceptloom.attention import local
from conceptloom.attention.local_gates import gate_of
from conceptloom.attention.local_setup import local_setup
from conceptloom.attention.local_stacks import FactorStack
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Prompt

from ..local_cases import LINEAR, RESNET, lora

PROMPT = "a blue circle and a green square on white"
STEPS = 5  # the first locates
CORNER = torch.zeros(16, 16)
CORNER[:6, :6] = 1


@pytest.fixture(scope="module")
def tiny() -> DiffusersHost:
    return DiffusersHost.tinyworld()


class Run:
    """Passes of one run, with both prompts."""

    def __init__(self, host: DiffusersHost, *loras: Any) -> None:
        setup = local_setup(host, loras)
        prompts = [setup.encode(""), setup.encode(PROMPT)]
        self.host, self.prompts = host, prompts
        self.edit = setup.edit(STEPS, {PROMPT: prompts[1].tokens})
        self.times = host.noise_path.timesteps(STEPS)

    def step(self, number: int, latent: torch.Tensor | None = None) -> torch.Tensor:
        shape = (2, self.host.latent_channels, 16, 16)
        if latent is None:
            latent = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        at = torch.full((2,), float(self.times[number]))
        prompts: list[Prompt] = self.prompts
        return self.host.predict(latent, at, prompts, [self.edit], [False, True])


def stack_of(out: int, into: tuple[int, ...]) -> FactorStack:
    return FactorStack(torch.randn(out, 3), torch.randn(3, *into), (0, 0, 1))


def test_positions_that_are_picked_out_get_what_all_get_and_the_others_nothing():
    layer, inputs = nn.Linear(8, 12), torch.randn(2, 10, 8)
    weights = torch.zeros(2, 10, 3)
    weights[:, 2:5] = torch.rand(2, 3, 3)
    cells = torch.tensor([2, 3, 4])
    with torch.no_grad():
        output, stack = layer(inputs), stack_of(12, (8,))
        whole = gate_of(layer, stack, weights, None, inputs, output).add(inputs, output)
        few = gate_of(layer, stack, weights[:, cells], cells, inputs, output).add(inputs, output)
    by_hand = output + (inputs @ stack.down.T * weights) @ stack.up.T
    torch.testing.assert_close(whole, by_hand)
    torch.testing.assert_close(few, by_hand)
    rest = [0, 1, *range(5, 10)]
    assert torch.equal(few[:, rest], output[:, rest])


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions(kernel: int):
    layer = nn.Conv2d(8, 12, kernel, padding=kernel // 2)
    inputs, weights = torch.randn(2, 8, 5, 4), torch.rand(2, 3, 20)
    stack = stack_of(12, (8, kernel, kernel))
    with torch.no_grad():
        output = layer(inputs)
        got = gate_of(layer, stack, weights, None, inputs, output).add(inputs, output)
    narrow = torch.conv2d(inputs, stack.down, padding=kernel // 2) * weights.view(2, 3, 5, 4)
    torch.testing.assert_close(got, output + torch.conv2d(narrow, stack.up[..., None, None]))


@torch.no_grad()
def test_a_later_pass_prepares_nothing_again(tiny: DiffusersHost, monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []

    def counted(*args: Any) -> Any:
        made.append(args)
        return gate_of(*args)

    monkeypatch.setattr(local, "gate_of", counted)
    run = Run(tiny, lora(tiny, 1, "blue circle", (*LINEAR, *RESNET)))
    run.step(0)
    assert made == []
    run.step(1)
    layers = len(made)
    assert layers > 20
    first, fresh = run.step(2), Run(tiny, lora(tiny, 1, "blue circle", (*LINEAR, *RESNET)))
    assert len(made) == layers
    fresh.step(0)
    assert torch.equal(fresh.step(2), first), "prepared at this step, not before"
    run.step(0, torch.zeros(2, tiny.latent_channels, 16, 16))
    run.step(1)
    assert len(made) == 3 * layers, "another run has other masks"


@torch.no_grad()
def test_layers_are_multiplied_inside_of_the_regions_only(
    tiny: DiffusersHost, monkeypatch: pytest.MonkeyPatch
):
    run = Run(tiny, lora(tiny, 1, "", mask=CORNER))
    rows: list[int] = []
    linear = torch.nn.functional.linear

    def counted(inputs: torch.Tensor, weight: torch.Tensor, *args: Any) -> torch.Tensor:
        n_rows, is_text = inputs.shape[-2], inputs.shape[-2] == 77
        if len(weight) == 2 and not is_text:  # the first factor
            rows.append(n_rows)
        return linear(inputs, weight, *args)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    run.step(1)
    assert set(rows) == {36, 9}  # 6x6 of 16x16, and 3x3 of 8x8


@pytest.mark.parametrize("before", [True, False], ids=["after a usual pass", "at once"])
def test_a_pass_with_gradients(tiny: DiffusersHost, before: bool):
    """ComfyUI samples in inference mode, and guidance leaves it for single passes."""
    with torch.inference_mode():
        run = Run(tiny, lora(tiny, 1, "", mask=CORNER, which=(*LINEAR, *RESNET)))
        if before:
            run.step(1)
    latent = torch.randn(2, tiny.latent_channels, 16, 16, requires_grad=True)
    run.step(2, latent).square().mean().backward()
    assert latent.grad is not None
    assert latent.grad.isfinite().all()
    assert float(latent.grad.abs().max()) > 0


def test_steps_alternate_between_modes(tiny: DiffusersHost):
    run = Run(tiny, lora(tiny, 1, "", mask=CORNER))
    results = []
    for step, grad in itertools.product((1,), (False, True, False, True)):
        with torch.inference_mode(not grad), torch.no_grad():
            results.append(run.step(step))
    for other in results[1:]:
        assert torch.equal(results[0], other)


def test_layers_are_known_by_name(tiny: DiffusersHost):
    """A run in ComfyUI has site objects of its own, others than those of the loader."""
    layers = local_setup(tiny, [lora(tiny, 1, "blue circle", ("emb_layers.1",))]).layers
    others = [s for s in DiffusersHost.tinyworld().sites.layers if s.name.endswith("emb_layers.1")]
    assert others
    assert all(layers.touches(site) and layers.has_single(site) for site in others)
