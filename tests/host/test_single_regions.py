"""Regions on Z-Image and Krea 2: a text and a concept each, in one pass, the same in both hosts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_joint import LATENT, ROWS, Network, merged_layers, random_parts, single_kind

from conceptloom.attention.fusion import RegionSource
from conceptloom.attention.joint_regions import JointRegions
from conceptloom.attention.region_edits import region_edits
from conceptloom.attention.regions import with_background
from conceptloom.errors import ModelError
from conceptloom.host.streams import positions

kind = single_kind
LEFT = torch.zeros(1, 10, 12)
LEFT[..., :5] = 1
WIDTHS = {"z_image": 48, "krea2": 12 * 48}


def context(kind: str, rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, rows, WIDTHS[kind], generator=generator)


def source(network: Network, rows: int, seed: int, *, changed: bool = True) -> RegionSource:
    parts = random_parts(network.sites, 100 * seed) if changed else {}
    changes = {name: change for name, (change, _) in parts.items()}
    return RegionSource(context(network.kind, rows, seed), changes)


@pytest.fixture(params=["comfyui", "diffusers"])
def network(kind: str, request: pytest.FixtureRequest) -> Network:
    return Network(kind, request.param == "diffusers")


@pytest.mark.parametrize("rows", [ROWS, 7, 45])
def test_a_region_everywhere_is_its_concept_s_model_with_its_prompt(
    network: Network, rows: int, monkeypatch: pytest.MonkeyPatch
):
    if network.kind == "z_image" and rows > 32:
        pytest.skip("its picture stands behind the pass's own text, which is shorter")
    own = source(network, rows, 1)
    deltas = {
        site.weight: own.changes[site.weight].delta((site.outputs, site.module.in_features))
        for site in network.sites.layers
    }
    fused = network([JointRegions([own], torch.ones(1, 10, 12))])
    longer = own.context.expand(2, -1, -1)
    monkeypatch.setattr("test_joint.context_of", lambda kind: longer)
    monkeypatch.setattr("test_joint.ROWS", rows)
    with merged_layers(network, deltas):
        expected = network()
    torch.testing.assert_close(fused, expected, rtol=1e-5, atol=1e-5)


def test_two_regions_are_the_same_in_both_hosts(kind: str):
    outputs = []
    for in_diffusers in (False, True):
        network = Network(kind, in_diffusers)
        sources = [source(network, 45, 1), source(network, 7, 2, changed=False)]
        edits = region_edits(network.sites, sources, with_background(0.75 * LEFT), 0.3)
        outputs.append(network(edits, conditional=(True, False)))
        base = network()
        torch.testing.assert_close(outputs[-1][1], base[1], rtol=1e-5, atol=1e-5)
        assert (outputs[-1] - base)[0].abs().max() > 0.1
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_the_pass_s_own_text_everywhere_changes_nothing(network: Network):
    """Whatever lambda is."""
    generator = torch.Generator().manual_seed(2)
    own = torch.randn(2, ROWS, WIDTHS[network.kind], generator=generator)[:1]
    edit = JointRegions([RegionSource(own), RegionSource(own)], with_background(LEFT), 0.7)
    torch.testing.assert_close(network([edit])[0], network()[0], rtol=1e-5, atol=1e-5)


def test_tokens_of_a_longer_text_stand_where_the_network_puts_them(
    network: Network, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Any] = []
    assert network.sites.joint is not None
    block, dim = network.sites.joint.blocks[0], network.sites.joint.rope_dim
    hook = block.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    try:
        for rows in (ROWS, 75):
            own = context(network.kind, rows, 1).expand(2, -1, -1)
            monkeypatch.setattr("test_joint.context_of", lambda kind, own=own: own)
            monkeypatch.setattr("test_joint.ROWS", rows)
            network()
    finally:
        hook.remove()
    order, cells = network.sites.joint.order, 5 * 6
    spans = [order.spans(rows, cells) for rows in (ROWS, 75)]
    ropes = (one if isinstance(one, tuple) else (one,) for one in seen)
    for short, long in zip(*ropes, strict=True):
        known, expected = (
            rope.narrow(dim, at.text.start, at.n_text)
            for rope, at in zip((short, long), spans, strict=True)
        )
        found = positions(known, dim, spans[1].n_text)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_two_kinds_of_streams_are_refused(network: Network):
    edits: list[Any] = [
        JointRegions([source(network, ROWS, seed)], torch.ones(1, 10, 12)) for seed in (1, 2)
    ]
    with pytest.raises(ModelError, match="leave one out"):
        network(edits)
    assert network().shape == LATENT.shape
