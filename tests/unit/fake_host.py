"""A base model that is nothing but names and weights, for what needs no forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from conceptloom.concepts.concept import Concept, Diff, LowRank

VOCABULARY = ("cat", "dog", "mug")  # everything else has a token for each letter


class FakeHost:
    """The part of `Host` that handles and adapters ask for."""

    fingerprint = "unet32 context8 clip_l8 eps 4ch 00000000"
    device = torch.device("cpu")
    origin = ""

    def __init__(self, dtype: torch.dtype = torch.float32, encoders: tuple[str, ...] = ("clip_l",)):
        generator = torch.Generator().manual_seed(3)
        self.encoders = dict.fromkeys(encoders, 8)
        shapes = {
            "unet.input_blocks.1.1.proj_in.weight": (32, 32, 1, 1),
            "unet.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (32, 32),
            "unet.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight": (32, 32),
            "unet.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (32, 8),
            "unet.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight": (32, 8),
            "unet.input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.weight": (32, 32),
            "unet.input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.bias": (32,),
            "unet.input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight": (64, 32),
            "unet.input_blocks.1.1.proj_out.weight": (32, 32, 1, 1),
            "unet.input_blocks.1.1.proj_out.bias": (32,),
            "unet.input_blocks.1.0.in_layers.2.weight": (32, 16, 3, 3),
        }
        for encoder in encoders:
            shapes[f"{encoder}.text_model.embeddings.token_embedding.weight"] = (40, 8)
            shapes[f"{encoder}.text_model.encoder.layers.0.self_attn.q_proj.weight"] = (8, 8)
            shapes[f"{encoder}.text_model.encoder.layers.0.self_attn.q_proj.bias"] = (8,)
        self.weights = {
            name: torch.randn(shape, generator=generator).to(dtype)
            for name, shape in shapes.items()
        }

    def tokenize(self, text: str) -> tuple[int, ...]:
        if text in VOCABULARY:
            return (VOCABULARY.index(text),)
        return tuple(3 + ord(letter) % 37 for letter in text if letter != " ")

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        ids = list(self.tokenize(word))
        return {name: self.token_table(name)[ids].clone() for name in self.encoders}

    def token_table(self, encoder: str) -> Tensor:
        return self.weights[f"{encoder}.text_model.embeddings.token_embedding.weight"]

    def weight(self, name: str) -> Tensor:
        return self.weights[name]

    def weight_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.weights[name].shape)

    def weight_names(self) -> list[str]:
        return list(self.weights)


def some_concept(*, seed: int = 0, names: tuple[str, ...] = ("my-mug", "cat_2")) -> Concept:
    """A concept with everything in it: two handles, whole and low-rank changes, a thumbnail."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    block = "unet.output_blocks.4.1"
    return Concept(
        handles={name: {"clip_l": random(1 + i, 8)} for i, name in enumerate(names)},
        weights={
            f"{block}.transformer_blocks.0.attn2.to_k.weight": Diff(random(32, 8)),
            f"{block}.transformer_blocks.0.attn2.to_out.0.bias": Diff(random(32)),
            f"{block}.proj_out.weight": LowRank(random(32, 4), random(4, 32, 1, 1), 0.5),
            "clip_l.text_model.encoder.layers.0.mlp.fc1.weight": LowRank(
                random(8, 2), random(2, 8)
            ),
        },
        base=FakeHost.fingerprint,
        method="break_a_scene",
        recipe={"steps": 400, "rate": 5e-4, "scope": "low-rank"},
        seeds={"training": 7},
        prompts=tuple(f"a photo of <{name}>" for name in names),
        words=dict.fromkeys(names, "thing"),
        history={"steps": 800, "total": 0.125},
        thumbnail=(random(12, 20, 3).sigmoid() * 255).round() / 255,
    )
