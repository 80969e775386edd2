"""A concept on MODEL and CLIP by the host's own patches."""

from __future__ import annotations

import pytest
import torch
from tiny_models import Graph, assert_same_state, state_of

from conceptloom.errors import BaseMismatchError, HandleError
from conceptloom.host.comfyui.apply import apply_concept
from conceptloom.host.comfyui.host import ComfyHost

LATENT = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([500])


def deltas_for(host: ComfyHost) -> dict:
    """A dense change, a low-rank one on `proj_out`, a bias, and one in the text encoder."""
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    names = host.weight_names()
    dense = next(n for n in names if n.endswith("attn2.to_v.weight"))
    out = next(n for n in names if n.endswith("proj_out.weight"))
    bias = next(n for n in names if n.endswith("proj_out.bias"))
    text = next(n for n in names if n.endswith("self_attn.q_proj.weight"))
    wide, inner = host.weight(out).shape[:2]
    return {
        dense: noise(*host.weight(dense).shape),
        out: (noise(wide, 3), noise(3, inner), 0.7),
        bias: noise(*host.weight(bias).shape),
        text: noise(*host.weight(text).shape),
    }


def edits_for(deltas: dict, strength: float) -> dict:
    def dense(delta, weight: torch.Tensor) -> torch.Tensor:
        if isinstance(delta, tuple):
            up, down, scale = delta
            delta = scale * up @ down
        return weight + strength * delta.reshape(weight.shape)

    return {n: lambda w, d=d: dense(d, w) for n, d in deltas.items()}


def predicted(host: ComfyHost, text: str = "a photo of a cat") -> torch.Tensor:
    return host.predict(LATENT, T, [host.encode_prompt(text)])


def test_patches_equal_the_edits_that_learning_computed_with(graph: Graph, host: ComfyHost):
    deltas = deltas_for(host)
    before = state_of(graph.model), state_of(graph.clip.patcher)
    plain = predicted(host)
    for strength in (1.0, 0.4, -0.5):
        model, clip = apply_concept(graph.model, graph.clip, deltas, {}, strength)
        applied = predicted(ComfyHost(model, clip))
        with host.edited(edits_for(deltas, strength), trainable=False):
            torch.testing.assert_close(applied, predicted(host), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(applied, plain, atol=1e-3)
    assert torch.equal(predicted(host), plain)
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_strength_zero_is_the_base_model_bit_for_bit(graph: Graph, host: ComfyHost):
    model, clip = apply_concept(graph.model, graph.clip, deltas_for(host), {}, 0.0)
    assert torch.equal(predicted(ComfyHost(model, clip)), predicted(host))


def test_two_concepts_stack(sd1: Graph):
    host = ComfyHost(sd1.model, sd1.clip)
    deltas, handle = deltas_for(host), {"clip_l": torch.randn(1, 64)}
    once = apply_concept(sd1.model, sd1.clip, deltas, {"mug": handle}, 0.5)
    twice = ComfyHost(*apply_concept(*once, deltas, {"hat": handle}, 0.5))
    whole = ComfyHost(*apply_concept(sd1.model, sd1.clip, deltas, {}, 1.0))
    torch.testing.assert_close(predicted(twice), predicted(whole), rtol=1e-3, atol=1e-4)
    row = twice._clip.tokenize("<mug> <hat>")["l"][0]
    assert [isinstance(token, torch.Tensor) for token, _ in row[:4]] == [False, True, True, False]


def test_low_rank_changes_stay_low_rank(sd1: Graph):
    deltas = deltas_for(ComfyHost(sd1.model, sd1.clip))
    model, _ = apply_concept(sd1.model, sd1.clip, deltas, {})
    kinds = {key: type(patches[0][1]).__name__ for key, patches in model.patches.items()}
    assert sorted(kinds.values()) == ["LoRAAdapter", "tuple", "tuple"]


def test_a_linear_delta_fits_a_one_by_one_convolution(sd1: Graph):
    host = ComfyHost(sd1.model, sd1.clip)
    name = next(n for n in host.weight_names() if n.endswith("proj_out.weight"))
    shape = host.weight(name).shape
    assert len(shape) == 4
    delta = torch.randn(shape[:2])
    model, _ = apply_concept(sd1.model, sd1.clip, {name: delta}, {})
    other, _ = apply_concept(sd1.model, sd1.clip, {name: delta[:, :, None, None]}, {})
    assert torch.equal(predicted(ComfyHost(model, sd1.clip)), predicted(ComfyHost(other, sd1.clip)))


def test_concepts_of_other_models_are_refused(sd1: Graph):
    host = ComfyHost(sd1.model, sd1.clip)
    name = host.weight_names()[0]
    with pytest.raises(BaseMismatchError, match="does not have"):
        apply_concept(sd1.model, sd1.clip, {"unet.nowhere.weight": torch.zeros(2)}, {})
    with pytest.raises(BaseMismatchError, match="other widths"):
        apply_concept(sd1.model, sd1.clip, {name: torch.zeros(5, 5)}, {})
    with pytest.raises(BaseMismatchError, match="other widths"):
        apply_concept(sd1.model, sd1.clip, {name: (torch.zeros(5, 1), torch.zeros(1, 5), 1.0)}, {})
    with pytest.raises(HandleError):
        apply_concept(sd1.model, sd1.clip, {}, {"mug": {"clip_g": torch.zeros(1, 1280)}})
