"""What weights are for, by their names."""

from __future__ import annotations

import pytest

from conceptloom.host.ports import Role
from conceptloom.host.roles import is_matrix, roles_of, text_encoder_of

LAYER = "unet.output_blocks.4.1.transformer_blocks.0"
KV = {Role.CROSS_KV, Role.ATTENTION, Role.LINEAR}


@pytest.mark.parametrize(
    ("weight", "roles"),
    [
        (f"{LAYER}.attn2.to_k.weight", KV),
        (f"{LAYER}.attn2.to_v.weight", KV),
        (f"{LAYER}.attn2.to_out.0.bias", {Role.ATTENTION, Role.ATTENTION_OUT, Role.LINEAR}),
        (f"{LAYER}.attn1.to_k.weight", {Role.LINEAR}),
        (f"{LAYER}.ff.net.0.proj.weight", {Role.MLP, Role.LINEAR}),
        (f"{LAYER}.norm2.weight", set()),
        ("unet.middle_block.1.proj_out.weight", {Role.PROJ_OUT, Role.LINEAR}),
        ("unet.middle_block.1.norm.weight", set()),
        ("unet.middle_block.0.in_layers.2.weight", set()),
        ("unet.out.2.bias", set()),
        ("clip_g.text_model.encoder.layers.31.mlp.fc2.weight", {Role.TEXT, Role.LINEAR}),
        ("another.text_model.encoder.layers.3.self_attn.q_proj.weight", {Role.TEXT, Role.LINEAR}),
        ("clip_l.text_model.encoder.layers.0.layer_norm1.weight", set()),
        ("clip_l.text_model.embeddings.token_embedding.weight", set()),
    ],
)
def test_roles_are_reported_by_names(weight: str, roles: set[Role]) -> None:
    assert roles_of(weight) == roles
    assert is_matrix(weight) == weight.endswith("weight")
    assert text_encoder_of(weight) == ("" if weight.startswith("unet.") else weight.split(".")[0])
