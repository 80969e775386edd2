"""The region feature fuser: its exact identities, and that each concept stays in its region."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conceptloom.attention.fusion import RegionFusion, RegionSource
from conceptloom.attention.local_layers import added_linear
from conceptloom.attention.region_edits import region_edits
from conceptloom.attention.regions import with_background
from conceptloom.concepts.concept import Change, Concept, Diff, LowRank, weight_edits
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import AttentionCall, AttentionSite, Role, UNetEdit, UNetSites
from conceptloom.training.adapters import Scope, scope_weight_names

from ..tiny_models import FAMILIES, noise, tiny_host


@pytest.fixture(scope="module", params=FAMILIES)
def host(request: pytest.FixtureRequest) -> DiffusersHost:
    return tiny_host(request.param)


def concept(host: DiffusersHost, seed: int, *scopes: Scope, low_rank: bool = False) -> Concept:
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Change] = {}
    for scope in scopes or (Scope.CROSS_ATTENTION_KV,):
        for name in scope_weight_names(host.weight_names(), scope):
            shape = host.weight(name).shape
            if low_rank:
                up, down = (
                    torch.randn(shape[0], 2, generator=generator),
                    torch.randn(2, *shape[1:], generator=generator),
                )
                weights[name] = LowRank(0.3 * up, 0.3 * down, 0.5)
            else:
                weights[name] = Diff(0.2 * torch.randn(shape, generator=generator))
    vectors = {
        encoder: torch.randn(1, width, generator=generator)
        for encoder, width in host.encoders.items()
    }
    return Concept(
        handles={f"c{seed}": vectors}, weights=weights, base=host.fingerprint, method="test"
    )


def source(host: DiffusersHost, learned: Concept | None, text: str) -> RegionSource:
    handles = learned.handles if learned else {}
    with torch.no_grad():
        prompt = host.encode_prompt(text, handles)
    return RegionSource(prompt.context, learned.weights if learned else {})


def predict(host: DiffusersHost, text: str, *edits: Any, **more: Any) -> Tensor:
    with torch.no_grad():
        prompt = host.encode_prompt(text)
        rows = len(more.get("conditional", [True]))
        point = noise(1, 4, 16, 16).expand(rows, -1, -1, -1)
        return host.predict(point, torch.full((rows,), 300), [prompt], edits, **more)


def halves() -> Tensor:
    left = torch.zeros(1, 16, 16)
    left[0, :, :8] = 1
    return with_background(left)


WHOLE = with_background(torch.ones(1, 16, 16))


@pytest.mark.parametrize("low_rank", [False, True])
def test_one_concept_everywhere_is_that_concepts_model(host: DiffusersHost, low_rank: bool) -> None:
    learned = concept(host, 1, low_rank=low_rank)
    own, rest = source(host, learned, "a <c1> cat"), source(host, None, "a dog")
    fused = predict(host, "a cat", RegionFusion([own, rest], WHOLE))
    with host.edited(weight_edits(learned), trainable=False), torch.no_grad():
        prompt = host.encode_prompt("a <c1> cat", learned.handles)
        # SDXL's pooled text is not of cross-attention: it stays the base prompt's
        base = host.encode_prompt("a cat")
        prompt = type(prompt)(prompt.text, prompt.context, prompt.tokens, base.pooled)
        alone = host.predict(noise(1, 4, 16, 16), torch.tensor([300]), [prompt])
    torch.testing.assert_close(fused, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(fused, predict(host, "a cat"), atol=1e-2)


def test_residuals_on_the_output_projection_are_the_concepts_model_too(
    host: DiffusersHost,
) -> None:
    learned = concept(host, 2, Scope.PROJ_OUT, low_rank=True)
    own = source(host, learned, "a cat")
    fused = predict(host, "a cat", RegionFusion([own, source(host, None, "a dog")], WHOLE))
    with host.edited(weight_edits(learned), trainable=False):
        alone = predict(host, "a cat")
    torch.testing.assert_close(fused, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(fused, predict(host, "a cat"), atol=1e-2)


def test_changes_of_every_layer_are_the_concepts_model_too(host: DiffusersHost) -> None:
    """Linear layers, convolutions, norms, biases and layers of the time, as a LoRA has them."""
    generator = torch.Generator().manual_seed(4)
    weights: dict[str, Any] = {}
    for site in host.sites.layers:
        for name in (site.weight, f"unet.{site.name}.bias"):
            if name in set(host.weight_names()) and Role.CROSS_KV not in site.roles:
                shape = host.weight(name).shape
                weights[name] = Diff(0.05 * torch.randn(shape, generator=generator))
    learned = Concept(handles={}, weights=weights, base=host.fingerprint, method="lora")
    own, rest = source(host, learned, "a cat"), source(host, None, "a cat")
    fused = predict(host, "a cat", *region_edits(host.sites, [own, rest], WHOLE))
    with host.edited(weight_edits(learned), trainable=False):
        alone = predict(host, "a cat")
    base = predict(host, "a cat")
    torch.testing.assert_close(fused, alone, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(fused, base, atol=1e-1)
    nowhere = with_background(torch.zeros(1, 16, 16))
    unchanged = predict(host, "a cat", *region_edits(host.sites, [own, rest], nowhere))
    torch.testing.assert_close(unchanged, base, rtol=1e-4, atol=1e-4)
    negative = predict(
        host, "a cat", *region_edits(host.sites, [own, rest], WHOLE), conditional=[False]
    )
    assert torch.equal(negative, base)


@pytest.mark.parametrize("suppression", [0.0, 0.3, 2.0])
def test_equal_features_stay_whatever_lambda_is(host: DiffusersHost, suppression: float) -> None:
    same = source(host, None, "a cat")
    fused = predict(host, "a cat", RegionFusion([same, same], halves(), suppression))
    torch.testing.assert_close(fused, predict(host, "a cat"), rtol=1e-4, atol=1e-4)


class Calls(UNetEdit):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[AttentionCall, Tensor]] = []

    def wanted_attentions(self, sites: UNetSites) -> list[AttentionSite]:
        return sites.cross_attentions

    def attention(self, call: AttentionCall) -> None:
        self.calls.append((call, call.output.clone()))


def attended(host: DiffusersHost, call: AttentionCall, own: RegionSource) -> Tensor:
    """h_i by the formula: softmax(q K_i^T / sqrt(d)) V_i, then the output projection."""
    found = []
    for part in ("to_k", "to_v"):
        name = f"unet.{call.site.name}.{part}.weight"
        weight = host.weight(name)
        if change := own.changes.get(name):
            weight = weight + change.delta(weight.shape)
        found.append(F.linear(own.context, weight))
    heads, output = call.site.heads, []
    for q, k, v in zip(*(t.chunk(heads, -1) for t in (call.flat_query, *found)), strict=True):
        output.append((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v)
    return call.site.out.module(torch.cat(output, -1))


@pytest.mark.parametrize("suppression", [0.0, 0.4])
def test_every_layer_mixes_by_the_papers_formula(host: DiffusersHost, suppression: float) -> None:
    first, second = concept(host, 1), concept(host, 2, low_rank=True)
    sources = [
        source(host, first, "a <c1> cat"),
        source(host, second, "a <c2> dog"),
        source(host, None, "a mountain"),
    ]
    soft = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)) / 2
    masks = with_background(soft)
    before, after = Calls(), Calls()
    fusion = RegionFusion(sources, masks, suppression)
    predict(host, "a cat and a dog", before, fusion, after)
    for (call, base), (_, found) in zip(before.calls, after.calls, strict=True):
        side = 16 // call.site.downsample
        with torch.no_grad():
            parts = [attended(host, call, own) for own in sources]
        shares = F.adaptive_avg_pool2d(masks[None], side)[0].flatten(1)[:, None, :, None]
        mixed = sum(share * part for share, part in zip(shares, parts, strict=True))
        expected = (1 + suppression) * mixed - suppression * base
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)  # masks are 1/1024ths


def test_a_region_is_drawn_by_its_own_concept_only(host: DiffusersHost) -> None:
    """At the layer: cells of the left half do not depend on the right half's concept."""
    own = source(host, concept(host, 1), "a <c1> cat")
    outputs = []
    for other in (source(host, None, "a dog"), source(host, concept(host, 2), "a <c2> dog")):
        calls = Calls()
        predict(host, "a cat", RegionFusion([own, other], halves()), calls)
        call, found = calls.calls[0]  # later layers see what self-attention mixed
        outputs.append(found.unflatten(1, call.info.grid(call.site)))
    columns = outputs[0].shape[2]
    assert torch.equal(outputs[0][:, :, : columns // 2], outputs[1][:, :, : columns // 2])
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)


def test_rows_of_the_negative_prompt_stay_the_base_models(host: DiffusersHost) -> None:
    own, rest = source(host, concept(host, 1, Scope.PROJ_OUT), "a <c1> cat"), source(host, None, "")
    edit = RegionFusion([own, rest], halves())
    plain, fused = predict(host, "a cat"), predict(host, "a cat", edit)
    both = predict(host, "a cat", edit, conditional=[False, True])
    torch.testing.assert_close(both[:1], plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1:], fused, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(predict(host, "a cat", edit, conditional=[False]), plain)


def test_keys_and_values_are_projected_once_a_run(host: DiffusersHost) -> None:
    edit = RegionFusion([source(host, None, "a cat"), source(host, None, "a dog")], halves())
    first = predict(host, "a cat", edit)
    counted: list[int] = []
    layer = host.sites.cross_attentions[0].key.module
    hook = layer.register_forward_hook(lambda *_: counted.append(1))
    try:
        assert torch.equal(predict(host, "a cat", edit), first)
    finally:
        hook.remove()
    assert counted == [1]  # the host's own


def test_changes_by_hand() -> None:
    inputs = torch.tensor([[1.0, 2.0]])
    assert added_linear(Diff(torch.tensor([[1.0, 1.0], [0.0, 3.0]])), inputs).tolist() == [
        [3.0, 6.0]
    ]
    low = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 1.0]]), 0.5)
    assert added_linear(low, inputs).tolist() == [[1.5, 3.0]]
