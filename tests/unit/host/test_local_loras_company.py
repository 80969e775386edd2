"""Localised LoRAs on diffusers networks that are compiled, kept in eight bits, or steered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conceptloom.attention.local_setup import local_setup
from conceptloom.host.diffusers import DiffusersHost

from ..local_cases import LINEAR, RESNET, lora
from .test_compiled import WAYS, remade, stance

PROMPT = "a blue circle and a green square on white"
LEFT = torch.cat([torch.ones(16, 8), torch.zeros(16, 8)], dim=1)
WHICH = (*LINEAR, *RESNET)


@pytest.fixture
def tiny() -> DiffusersHost:
    return DiffusersHost.tinyworld()


@pytest.fixture(autouse=True)
def no_graphs_left() -> Iterator[None]:
    import torch._dynamo

    yield
    torch._dynamo.reset()


@torch.no_grad()
def predicted(host: DiffusersHost, **how: Any) -> list[torch.Tensor]:
    """A step that locates and one that draws; none of it without `how`."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(2, host.latent_channels, 16, 16, generator=generator)
    setup = local_setup(host, [lora(host, 1, which=WHICH, **how)] if how else [])
    prompts = [setup.encode(""), setup.encode(PROMPT)]
    edits = [setup.edit(5, {PROMPT: prompts[1].tokens})] if how else []
    times = host.noise_path.timesteps(5)
    return [
        host.predict(latent, torch.full((2,), float(times[n])), prompts, edits, [False, True])
        for n in (0, 1)
    ]


WORDS: dict[str, Any] = {"words": "blue circle"}
PAINTED: dict[str, Any] = {"words": "", "mask": LEFT}
NOWHERE: dict[str, Any] = {"words": "", "mask": torch.zeros(16, 16)}


@pytest.mark.parametrize("compiled", WAYS)
def test_a_compiled_unet(tiny: DiffusersHost, compiled: Callable[[DiffusersHost], Any]):
    expected = [predicted(tiny, **how) for how in (WORDS, PAINTED)]
    host = remade(tiny, compiled(tiny))
    host.noise_path = tiny.noise_path
    for how, steps in zip((WORDS, PAINTED), expected, strict=True):
        for got, one in zip(predicted(host, **how), steps, strict=True):
            assert torch.equal(got, one)
    assert stance() == "default"


def in_eight_bits(host: DiffusersHost) -> None:
    """Weights as diffusers keeps them between uses, and casts them for each."""
    host.unet.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )


def rounded(host: DiffusersHost, like: DiffusersHost) -> None:
    """The same numbers in float32."""
    stored = dict(like.unet.named_parameters())
    with torch.no_grad():
        for name, weight in host.unet.named_parameters():
            weight.copy_(stored[name].float())


def test_weights_in_eight_bits(tiny: DiffusersHost):
    small = DiffusersHost.tinyworld()
    in_eight_bits(small)
    kept = {p.dtype for p in small.unet.parameters()}
    assert torch.float8_e4m3fn in kept
    rounded(tiny, small)
    plain = predicted(small)
    assert torch.equal(predicted(small, **NOWHERE)[1], plain[1])
    for how in (WORDS, PAINTED):
        got, expected = predicted(small, **how)[1], predicted(tiny, **how)[1]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(got, plain[1], atol=1e-2)


def steer(host: DiffusersHost, scale: float) -> Any:
    """What a ControlNet adds to the skip connections and the middle, for each pass."""
    shapes: list[tuple[int, ...]] = []
    unet = host.unet
    blocks = [*unet.down_blocks, unet.mid_block]

    def seen(module: Any, args: Any, output: Any) -> None:
        outputs = output[1] if isinstance(output, tuple) else [output]
        shapes.extend(tuple(one.shape) for one in outputs)

    handles = [block.register_forward_hook(seen) for block in blocks]
    first = unet.conv_in.register_forward_hook(seen)
    predicted(host)
    for handle in (*handles, first):
        handle.remove()
    count = len(shapes) // 2
    generator = torch.Generator().manual_seed(2)
    residuals = [scale * torch.randn(shape, generator=generator) for shape in shapes[:count]]

    def add(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        more = {
            "down_block_additional_residuals": tuple(residuals[:-1]),
            "mid_block_additional_residual": residuals[-1],
        }
        return args, {**kwargs, **more}

    return unet.register_forward_pre_hook(add, with_kwargs=True)


def test_a_controlnet(tiny: DiffusersHost):
    alone = predicted(tiny, **PAINTED)[1]
    steer(tiny, 0.3)
    base, nowhere, both = (predicted(tiny, **how)[1] for how in ({}, NOWHERE, PAINTED))
    assert torch.equal(nowhere, base)
    assert not torch.allclose(both, base, atol=1e-2)
    assert not torch.allclose(both, alone, atol=1e-2)
    found = predicted(tiny, **WORDS)
    assert torch.equal(found[0], predicted(tiny)[0]), "located with the ControlNet alone"
    assert not torch.allclose(found[1], base, atol=1e-2)
