"""LoRA files of every kind and layout of names, as other programs write them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import torch

Tensors = dict[str, torch.Tensor]
Targets = Mapping[str, str | tuple[str, ...]]  # a file's name of a module -> its weights

RANK, BLOCK = 2, 8
ALPHA = torch.tensor(1.0)
KINDS = ("LoRA", "LoCon, Tucker", "LoHa", "LoKr", "GLoRA", "DoRA", "DoRA, inputs", "OFT", "BOFT",
         "differences")  # fmt: skip
MORE_KINDS = (*KINDS, "LoHa, CP", "LoKr, decomposed", "DoRA of a LoHa", "set")
SPELLINGS = (  # how programs end the names of a LoRA's factors
    ("lora_up.weight", "lora_down.weight"),
    ("lora_B.weight", "lora_A.weight"),
    ("lora_B.default.weight", "lora_A.default.weight"),
    ("lora.up.weight", "lora.down.weight"),
    ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight"),
)


def entry(kind: str, shape: torch.Size, generator: torch.Generator) -> Tensors:
    """One module's tensors of a kind of file, small enough for the whole model to stay sound."""

    def random(*size: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(size, generator=generator)

    out, inner, kernel = shape[0], shape[1], tuple(shape[2:])
    ones = (1,) * len(kernel)
    count = shape[1:].numel()
    down = random(RANK, inner, *kernel, scale=count**-0.5)
    lora = {"lora_up.weight": random(out, RANK, *ones), "lora_down.weight": down, "alpha": ALPHA}
    loha = {
        "hada_w1_a": random(out, RANK), "hada_w1_b": random(RANK, count),
        "hada_w2_a": random(out, RANK), "hada_w2_b": random(RANK, count, scale=count**-0.5),
        "alpha": ALPHA,
    }  # fmt: skip
    match kind:
        case "LoRA":
            return lora
        case "LoCon, Tucker" if kernel:
            return {
                **lora,
                "lora_down.weight": random(RANK, inner, *ones, scale=inner**-0.5),
                "lora_mid.weight": random(RANK, RANK, *kernel),
            }
        case "LoHa":
            return loha
        case "LoHa, CP" if kernel:
            return {
                **{f"hada_w{n}_a": random(RANK, out) for n in (1, 2)},
                **{f"hada_w{n}_b": random(RANK, inner) for n in (1, 2)},
                **{f"hada_t{n}": random(RANK, RANK, *kernel) for n in (1, 2)},
                "alpha": ALPHA,
            }
        case "LoKr":
            left = random(4, 2, scale=1.0)
            return {"lokr_w1": left, "lokr_w2": random(out // 4, inner // 2, *kernel, scale=0.05)}
        case "LoKr, decomposed" if not kernel:
            return {
                "lokr_w1_a": random(4, RANK), "lokr_w1_b": random(RANK, 2),
                "lokr_w2_a": random(out // 4, RANK), "lokr_w2_b": random(RANK, inner // 2),
                "alpha": ALPHA,
            }  # fmt: skip
        case "GLoRA":
            return {
                "a1.weight": random(inner, RANK, scale=inner**-0.5),
                "a2.weight": random(RANK, inner),
                "b1.weight": random(out, RANK), "b2.weight": random(RANK, count, scale=count**-0.5),
                "alpha": ALPHA,
            }  # fmt: skip
        case "DoRA":
            return {**lora, "dora_scale": 1 + random(out, 1, *ones).abs()}
        case "DoRA, inputs":
            return {**lora, "dora_scale": 0.5 + random(1, inner, *ones).abs()}
        case "DoRA of a LoHa":
            return {**loha, "dora_scale": 1 + random(out, 1, *ones).abs()}
        case "OFT":
            return {"oft_blocks": random(out // BLOCK, BLOCK, BLOCK), "alpha": torch.tensor(0.0)}
        case "BOFT":
            return {"oft_blocks": random(1, out // BLOCK, BLOCK, BLOCK), "alpha": torch.tensor(0.0)}
        case "differences":
            return {"diff": random(*shape, scale=0.3 * count**-0.5), "diff_b": random(out)}
        case "set":
            return {"set_weight": random(*shape)}
        case _:
            return lora


def some_file(
    kind: str, names: Targets, shape_of: Callable[[str], tuple[int, ...]], dice: random.Random
) -> Tensors:
    """A small file of one kind: a few modules, each named as some program names it."""
    generator = torch.Generator().manual_seed(dice.randrange(2**31))
    tensors: Tensors = {}
    while len(tensors) < 4:
        module = dice.choice(list(names))
        target = names[module]
        parts = (target,) if isinstance(target, str) else target
        shape = torch.Size((sum(shape_of(one)[0] for one in parts), *shape_of(parts[0])[1:]))
        if len(shape) < 2 or shape[0] % BLOCK or shape[1] % 2 or shape.numel() > 2**16:
            continue
        up, down = dice.choice(SPELLINGS)
        for part, tensor in entry(kind, shape, generator).items():
            spelt = {"lora_up.weight": up, "lora_down.weight": down}.get(part, part)
            tensors[f"{module}.{spelt}"] = tensor
    return tensors
