"""Every kind of entry in a LoRA file against core's own merge into the weights."""

from __future__ import annotations

import comfy.lora
import pytest
import torch
import torch.nn.functional as F

from conceptloom.attention.local_layers import added
from conceptloom.concepts.lora_dense import resolved
from conceptloom.concepts.lora_file import lora_of
from conceptloom.concepts.lora_forms import Computed

ALPHA = torch.tensor(4.0)
Tensors = dict[str, torch.Tensor]


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape) * len(shape))
    return 0.3 * torch.randn(shape, generator=generator)


LINEAR: dict[str, Tensors] = {
    "LoRA": {"lora_up.weight": random(32, 8), "lora_down.weight": random(8, 24), "alpha": ALPHA},
    "LoRA without alpha": {"lora_up.weight": random(32, 8), "lora_down.weight": random(8, 24)},
    "PEFT": {"lora_B.weight": random(32, 8), "lora_A.weight": random(8, 24)},
    "LoRA 4-D": {
        "lora_up.weight": random(32, 8, 1, 1),
        "lora_down.weight": random(8, 24, 1, 1),
        "alpha": ALPHA,
    },
    "LoHa": {
        "hada_w1_a": random(32, 4), "hada_w1_b": random(4, 24),
        "hada_w2_a": random(32, 4), "hada_w2_b": random(4, 24), "alpha": ALPHA,
    },
    "LoHa, wide": {
        "hada_w1_a": random(32, 24), "hada_w1_b": random(24, 24),
        "hada_w2_a": random(32, 24), "hada_w2_b": random(24, 24), "alpha": ALPHA,
    },
    "LoKr": {
        "lokr_w1": random(4, 4), "lokr_w2_a": random(8, 3), "lokr_w2_b": random(3, 6),
        "alpha": ALPHA,
    },
    "LoKr, both decomposed": {
        "lokr_w1_a": random(4, 2), "lokr_w1_b": random(2, 4),
        "lokr_w2_a": random(8, 3), "lokr_w2_b": random(3, 6), "alpha": ALPHA,
    },
    "LoKr, whole": {"lokr_w1": random(4, 4), "lokr_w2": random(8, 6), "alpha": torch.tensor(0.0)},
    "GLoRA": {
        "a1.weight": random(8, 24), "a2.weight": random(24, 8),
        "b1.weight": random(8, 24), "b2.weight": random(32, 8), "alpha": ALPHA,
    },
    "GLoRA, new order": {
        "a1.weight": random(24, 8), "a2.weight": random(8, 24),
        "b1.weight": random(32, 8), "b2.weight": random(8, 24), "alpha": ALPHA,
    },
    "DoRA, outputs": {
        "lora_up.weight": random(32, 8), "lora_down.weight": random(8, 24), "alpha": ALPHA,
        "dora_scale": random(32, 1).abs() + 1,
    },
    "DoRA, inputs": {
        "lora_up.weight": random(32, 8), "lora_down.weight": random(8, 24), "alpha": ALPHA,
        "dora_scale": random(1, 24).abs() + 1,
    },
    "DoRA of a LoHa": {
        "hada_w1_a": random(32, 4), "hada_w1_b": random(4, 24),
        "hada_w2_a": random(32, 4), "hada_w2_b": random(4, 24), "alpha": ALPHA,
        "dora_scale": random(32, 1).abs() + 1,
    },
    "OFT": {"oft_blocks": random(4, 8, 8), "alpha": torch.tensor(0.0)},
    "OFT, bounded": {"oft_blocks": random(4, 8, 8), "alpha": torch.tensor(0.5)},
    "BOFT": {"oft_blocks": random(2, 4, 8, 8), "alpha": torch.tensor(0.0)},
    "difference": {"diff": random(32, 24)},
}  # fmt: skip
CONV: dict[str, Tensors] = {
    "LoCon": {
        "lora_up.weight": random(32, 8, 1, 1), "lora_down.weight": random(8, 24, 3, 3),
        "alpha": ALPHA,
    },
    "LoCon, Tucker": {
        "lora_up.weight": random(32, 8, 1, 1), "lora_down.weight": random(8, 24, 1, 1),
        "lora_mid.weight": random(8, 8, 3, 3), "alpha": ALPHA,
    },
    "LoHa": {
        "hada_w1_a": random(32, 4), "hada_w1_b": random(4, 216),
        "hada_w2_a": random(32, 4), "hada_w2_b": random(4, 216), "alpha": ALPHA,
    },
    "LoHa, CP": {
        "hada_w1_a": random(4, 32), "hada_w1_b": random(4, 24), "hada_t1": random(4, 4, 3, 3),
        "hada_w2_a": random(4, 32), "hada_w2_b": random(4, 24), "hada_t2": random(4, 4, 3, 3),
        "alpha": ALPHA,
    },
    "LoKr": {"lokr_w1": random(4, 4), "lokr_w2": random(8, 6, 3, 3), "alpha": ALPHA},
    "GLoRA, new order": {
        "a1.weight": random(24, 8), "a2.weight": random(8, 24),
        "b1.weight": random(32, 8), "b2.weight": random(8, 216), "alpha": ALPHA,
    },
    "DoRA": {
        "lora_up.weight": random(32, 8, 1, 1), "lora_down.weight": random(8, 24, 3, 3),
        "alpha": ALPHA, "dora_scale": random(32, 1, 1, 1).abs() + 1,
    },
    "difference": {"diff": random(32, 24, 3, 3)},
}  # fmt: skip
EVERY = [(name, (32, 24), one) for name, one in LINEAR.items()] + [
    (f"{name} of a convolution", (32, 24, 3, 3), one) for name, one in CONV.items()
]
every_kind = pytest.mark.parametrize(
    ("shape", "tensors"), [one[1:] for one in EVERY], ids=[one[0] for one in EVERY]
)


def merged(weight: torch.Tensor, tensors: Tensors, strength: float) -> torch.Tensor:
    """What core's Load LoRA makes of a weight."""
    lora = comfy.lora.load_lora({f"x.{n}": t for n, t in tensors.items()}, {"x": "w.weight"})
    patch = (strength, lora["w.weight"], 1.0, None, None)
    return comfy.lora.calculate_weight([patch], weight.clone(), "w.weight")


@every_kind
@pytest.mark.parametrize("strength", [1.0, 0.7, -0.5])
def test_entries_add_what_core_adds(shape: tuple[int, ...], tensors: Tensors, strength: float):
    weight = random(*shape)
    keys = {f"x.{name}": tensor for name, tensor in tensors.items()}
    found = lora_of(keys, {"x": "unet.x.weight"}, lambda _: shape)
    assert not found.unmatched
    form, factor = found.changes["unet.x.weight"], strength
    if isinstance(form, Computed):
        form, factor = resolved(form, weight, strength), 1.0
    expected = merged(weight, tensors, strength) - weight
    assert float(expected.abs().max()) > 0.01
    torch.testing.assert_close(factor * form.delta(shape), expected, atol=1e-5, rtol=1e-5)


@every_kind
def test_a_mask_of_numbers_mixes_both_weights(shape: tuple[int, ...], tensors: Tensors):
    """(1 - M) W x + M W' x, at a random M, without W' for the forms that need none."""
    weight, strength = random(*shape), 0.7
    found = lora_of(
        {f"x.{n}": t for n, t in tensors.items()}, {"x": "unet.x.weight"}, lambda _: shape
    )
    form, factor = found.changes["unet.x.weight"], strength
    if isinstance(form, Computed):
        form, factor = resolved(form, weight, strength), 1.0
    if len(shape) == 4:
        inputs, op = random(2, shape[1], 6, 5), conv
        layer: torch.nn.Module = torch.nn.Conv2d(shape[1], shape[0], 3, padding=1, bias=False)
        mask = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    else:
        inputs, op = random(2, 30, shape[1]), F.linear
        layer = torch.nn.Linear(shape[1], shape[0], bias=False)
        mask = torch.rand(2, 30, 1, generator=torch.Generator().manual_seed(0))
    base = op(inputs, weight)
    expected = (1 - mask) * base + mask * op(inputs, merged(weight, tensors, strength))
    got = base + factor * added(form, layer, inputs, lambda narrow: narrow * mask)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def conv(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(inputs, weight, padding=1)
