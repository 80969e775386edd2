"""Names of LoRA files for diffusion transformers, and layers that a file has in one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conceptloom.concepts.concept import Diff
from conceptloom.concepts.lora_dense import resolved
from conceptloom.concepts.lora_file import lora_of
from conceptloom.concepts.lora_forms import Computed
from conceptloom.concepts.transformer_keys import transformer_key_map
from conceptloom.errors import BaseMismatchError
from conceptloom.host.families.single_stream import KREA_2, Z_IMAGE

WIDTH = 8
FAMILIES = {"z_image": Z_IMAGE, "krea2": KREA_2}


def weights_of(family: str) -> list[str]:
    """Names of a small model's weights."""
    table = FAMILIES[family]
    blocks = {table.blocks[0]: table.parts} | {n: b.parts for n, b in table.lists.items()}
    inner = [f"{name}.0.{part}" for name, parts in blocks.items() for part in parts]
    encoder = next(iter(table.token_tables))
    return [
        *(f"transformer.{path}.weight" for path in (*inner, *table.outer)),
        f"{encoder}.model.layers.0.self_attn.q_proj.weight",
    ]


def lora(module: str, up: str, down: str, rows: int = WIDTH, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.{up}": torch.randn(rows, 2, generator=generator),
        f"{module}.{down}": torch.randn(2, WIDTH, generator=generator),
    }


def shape_of(_: str) -> tuple[int, ...]:
    return (WIDTH, WIDTH)


KOHYA, PEFT = ("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight")
LAYOUTS: dict[str, tuple[str, tuple[str, str], Callable[[str], str]]] = {
    "ComfyUI": ("diffusion_model.", PEFT, str),
    "bare": ("", PEFT, str),
    "diffusers": ("transformer.", PEFT, str),
    "PEFT": ("base_model.model.", PEFT, str),
    "kohya": ("lora_unet_", KOHYA, lambda path: path.replace(".", "_")),
    "OneTrainer": ("lora_transformer_", KOHYA, lambda path: path.replace(".", "_")),
    "SimpleTuner": ("lycoris_", KOHYA, lambda path: path.replace(".", "_")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("naming", ["ComfyUI's names", "diffusers' names"])
def test_every_layer_is_found_in_every_layout(family: str, layout: str, naming: str):
    table = FAMILIES[family]
    start, (up, down), spelt = LAYOUTS[layout]
    weights = [name for name in weights_of(family) if name.startswith("transformer.")]
    tensors: dict[str, Tensor] = {}
    for seed, weight in enumerate(weights):
        path = weight.removeprefix("transformer.").removesuffix(".weight")
        path = path if naming == "ComfyUI's names" else table.diffusers_name(path)
        tensors |= lora(f"{start}{spelt(path)}", up, down, seed=seed)
    file = lora_of(tensors, transformer_key_map(weights_of(family), family), shape_of)
    assert file.unmatched == ()
    assert sorted(file.changes) == sorted(weights)
    assert file.unet == file.changes
    for seed, weight in enumerate(weights):
        up_, down_ = lora("x", "up", "down", seed=seed).values()
        torch.testing.assert_close(file.changes[weight].delta((WIDTH, WIDTH)), up_ @ down_)


QKV = [f"transformer.layers.0.attention.to_{n}.weight" for n in "qkv"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_q_k_and_v_in_one_layer(layout: str):
    start, (up, down), spelt = LAYOUTS[layout]
    tensors = lora(f"{start}{spelt('layers.0.attention.qkv')}", up, down, rows=3 * WIDTH)
    file = lora_of(tensors, transformer_key_map(weights_of("z_image"), "z_image"), shape_of)
    up_, down_ = lora("x", "up", "down", rows=3 * WIDTH).values()
    assert file.unmatched == ()
    assert sorted(file.changes) == sorted(QKV)
    deltas = torch.cat([file.changes[name].delta((WIDTH, WIDTH)) for name in QKV])
    torch.testing.assert_close(deltas, up_ @ down_)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


FUSED = {
    "LoKr": {"lokr_w1": random(6, 2), "lokr_w2": random(4, 4)},
    "LoKr, unaligned": {"lokr_w1": random(2, 2), "lokr_w2": random(12, 4)},
    "LoHa": {"hada_w1_a": random(24, 2), "hada_w1_b": random(2, 8),
             "hada_w2_a": random(24, 2), "hada_w2_b": random(2, 8)},
    "difference": {"diff": random(24, 8)},
    "DoRA": {"lora_up.weight": random(24, 2), "lora_down.weight": random(2, 8),
             "dora_scale": random(24, 1).abs() + 1},
    "set": {"set_weight": random(24, 8)},
}  # fmt: skip


@pytest.mark.parametrize("kind", FUSED)
def test_other_kinds_of_files_in_one_layer(kind: str):
    """Taken apart they change q, k and v as the whole entry changes all three."""
    names = transformer_key_map(weights_of("z_image"), "z_image")
    start = "diffusion_model.layers.0.attention.qkv"
    tensors = {f"{start}.{part}": tensor for part, tensor in FUSED[kind].items()}
    whole = lora_of(tensors, {start: "whole"}, lambda _: (24, 8)).changes["whole"]
    file = lora_of(tensors, names, shape_of)
    weight = random(24, 8)

    def delta(form, weight: Tensor) -> Tensor:
        form = resolved(form, weight, 1.0) if isinstance(form, Computed) else form
        return form.delta(weight.shape)

    parts = zip(QKV, weight.split(8), strict=True)
    apart = torch.cat([delta(file.changes[name], part) for name, part in parts])
    torch.testing.assert_close(apart, delta(whole, weight))
    assert file.unmatched == ()


def test_what_cannot_be_taken_apart_is_told():
    names = transformer_key_map(weights_of("z_image"), "z_image")
    tensors = {
        "diffusion_model.layers.0.attention.qkv.oft_blocks": random(3, 8, 8),
        "diffusion_model.layers.0.attention.qkv.diff_b": random(24),
        **lora("diffusion_model.layers.0.attention.out", *PEFT),
        "diffusion_model.layers.7.attention.out.diff": random(8, 8),
    }
    file = lora_of(tensors, names, shape_of)
    assert list(file.changes) == ["transformer.layers.0.attention.out.weight"]
    assert len(file.unmatched) == 3


def test_a_file_of_other_widths_is_refused():
    names = transformer_key_map(weights_of("z_image"), "z_image")
    for rows in (2 * WIDTH, 3 * WIDTH + 1):
        tensors = lora("diffusion_model.layers.0.attention.qkv", *PEFT, rows=rows)
        with pytest.raises(BaseMismatchError, match=f"{rows} outputs"):
            lora_of(tensors, names, shape_of)


def test_text_encoders():
    names = transformer_key_map(weights_of("z_image"), "z_image")
    tensors = {
        **lora("text_encoders.qwen3_4b.transformer.model.layers.0.self_attn.q_proj", *PEFT),
    }
    file = lora_of(tensors, names, shape_of)
    assert list(file.text) == ["qwen3_4b.model.layers.0.self_attn.q_proj.weight"]
    assert file.unet == {}
    assert "lora_te_layers_0_self_attn_q_proj" in names
    assert not isinstance(next(iter(file.text.values())), Diff)
