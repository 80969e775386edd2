"""Single-stream transformers, tiny and random, the same in both hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_single import diffusers_network, patcher_of, single_kind

from conceptloom.attention.lag_masks import summed_attention
from conceptloom.attention.local_joint import JointLocalEdit
from conceptloom.attention.local_lora import LocalLora, Part
from conceptloom.attention.local_stacks import LocalLayers
from conceptloom.concepts.lora_file import LoraFile
from conceptloom.concepts.low_rank import LowRank
from conceptloom.errors import ModelError
from conceptloom.host.comfyui.sites import network_sites
from conceptloom.host.diffusers.single_stream import joint_sites, velocity
from conceptloom.host.families.registry import family_of
from conceptloom.host.hooks import edits_installed
from conceptloom.host.ports import (
    AttentionCall,
    AttentionKind,
    AttentionSite,
    ForwardInfo,
    Role,
    Rows,
    Tokens,
    UNetEdit,
    UNetSites,
)

kind = single_kind


def test_sites(kind: str):
    sites = network_sites(patcher_of(kind).model.diffusion_model)
    assert sites.joint is not None
    assert sites.joint.context_width == {"z_image": 48, "krea2": 12 * 48}[kind]
    assert len(sites.attentions) == 3
    assert {site.kind for site in sites.attentions} == {AttentionKind.JOINT}
    assert [len(sites.finders)] == [1]
    rows = [site.rows for site in sites.layers]
    assert set(rows) == {Rows.JOINT, Rows.TEXT}
    assert sum(Role.PROJ_OUT in site.roles for site in sites.layers) == 3


LATENT = torch.randn(2, 16, 10, 12, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0.7, 0.4])
ROWS = 11  # of the context


def context_of(kind: str) -> torch.Tensor:
    width = {"z_image": 48, "krea2": 12 * 48}[kind]
    return torch.randn(2, ROWS, width, generator=torch.Generator().manual_seed(2))


class Network:
    """A network of one of the hosts, called in the same way."""

    def __init__(self, kind: str, in_diffusers: bool) -> None:
        self.kind, self.in_diffusers = kind, in_diffusers
        if in_diffusers:
            self.network = diffusers_network(kind)
            self.sites = joint_sites(family_of(self.network), self.network)
        else:
            self.network = patcher_of(kind).model.diffusion_model
            self.sites = network_sites(self.network)

    def __call__(self, edits: Sequence[UNetEdit] = (), **changed: Any) -> torch.Tensor:
        info = ForwardInfo(tuple(LATENT.shape), T, (True, True), ROWS, pictures=(0, 1))
        with edits_installed(self.sites, edits, replace(info, **changed)):
            context = context_of(self.kind)
            if not self.in_diffusers:
                more = {"num_tokens": ROWS} if self.kind == "z_image" else {}
                return self.network(LATENT, T, context, transformer_options={}, **more)
            return velocity(family_of(self.network), self.network, LATENT, T, context)


@pytest.fixture(params=["comfyui", "diffusers"])
def network(kind: str, request: pytest.FixtureRequest) -> Network:
    return Network(kind, request.param == "diffusers")


def random_parts(sites: UNetSites, seed: int, size: float = 0.3) -> dict[str, Part]:
    """A LoRA on every layer, in the names that both hosts share."""
    parts = {}
    for number, site in enumerate(sorted(sites.layers, key=lambda site: site.name)):
        generator = torch.Generator().manual_seed(seed + number)
        module: Any = site.module
        rows = module.out_features if site.part is None else site.part.stop - site.part.start
        up = size * torch.randn(rows, 2, generator=generator)
        down = torch.randn(2, module.in_features, generator=generator) / module.in_features**0.5
        parts[site.weight] = LowRank(up, down), 1.0
    return parts


def local(
    network: Network, *masks: torch.Tensor | None, words: Sequence[Tokens] = (), **more: Any
) -> JointLocalEdit:
    """Random LoRAs, each in its own place."""
    loras = [
        LocalLora(
            file=LoraFile(changes={}, identity=str(number)), name=f"lora {number}", words="",
            tokens=words[number] if words else (), mask=mask,
        )
        for number, mask in enumerate(masks)
    ]  # fmt: skip
    parts = [random_parts(network.sites, 100 * number) for number in range(len(masks))]
    layers = LocalLayers(network.sites, parts, lambda tensor: tensor)
    assert not layers.unplaced
    return JointLocalEdit(loras, layers, **more)


def merged(network: Network) -> AbstractContextManager[None]:
    """The first of these LoRAs in the weights."""
    parts = random_parts(network.sites, 0)
    deltas = {
        site.weight: parts[site.weight][0].delta((site.outputs, site.module.in_features))
        for site in network.sites.layers
    }
    return merged_layers(network, deltas)


@contextmanager
def merged_layers(network: Network, deltas: dict[str, torch.Tensor]) -> Iterator[None]:
    """What is added to some weights, in them."""
    before = {}
    try:
        for site in network.sites.layers:
            if site.weight in deltas:
                weight = site.module.weight
                before.setdefault(site.module, weight.detach().clone())
                rows = weight if site.part is None else weight[site.part]
                rows += deltas[site.weight]
        yield
    finally:
        for module, weight in before.items():
            module.weight.copy_(weight)


def test_both_hosts_say_the_same(kind: str):
    comfy, diffusers = Network(kind, False)(), Network(kind, True)()
    torch.testing.assert_close(comfy, diffusers, rtol=1e-5, atol=1e-5)


def test_ones_are_the_merged_lora(network: Network):
    base = network()
    with merged(network):
        expected = network()
    assert (expected - base).abs().max() > 0.1
    ones = network([local(network, torch.ones(10, 12))])
    torch.testing.assert_close(ones, expected, rtol=1e-5, atol=1e-5)


def test_zeros_are_the_base_model(network: Network):
    assert torch.equal(network([local(network, torch.zeros(10, 12))]), network())


def test_two_loras_are_the_same_in_both_hosts(kind: str):
    left = torch.zeros(10, 12)
    left[:, :5] = 1
    words = ((3,), (5,))
    tokens = (tuple(range(ROWS)),) * 2
    outputs = []
    for in_diffusers in (False, True):
        network = Network(kind, in_diffusers)
        edit = local(network, left, 0.5 * left.flip(1), words=words)
        outputs.append(network([edit], prompts=tokens))
        assert (outputs[-1] - network()).abs().max() > 0.1
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


class Looking(UNetEdit):
    """Keeps q and k of one attention."""

    reads_only = True

    def wanted_attended(self, sites: UNetSites) -> list[AttentionSite]:
        return list(sites.attentions[1:2])

    def attended(self, call: AttentionCall) -> None:
        self.query, self.key, self.tokens = call.query, call.key, call.tokens
        self.flat = call.flat_query, call.flat_key


def test_attention_to_words_is_the_same_in_both_hosts(kind: str):
    """Of every position to every row of the context, as the whole map would have it."""
    maps = []
    for in_diffusers in (False, True):
        network, looking = Network(kind, in_diffusers), Looking()
        network([looking])
        spans, heads = looking.tokens, network.sites.attentions[1].heads
        assert spans is not None
        scores = looking.query.float() @ looking.key.float().transpose(2, 3)
        whole = (scores * looking.query.shape[3] ** -0.5).softmax(-1).mean(1)
        words = slice(spans.text.start, spans.text.start + ROWS)
        positions = slice(spans.picture.start, spans.picture.start + spans.positions)
        maps.append(whole[:, positions, words])
        chosen = torch.eye(ROWS)[None].expand(2, -1, -1)
        summed = summed_attention(*looking.flat, heads, chosen).transpose(1, 2)
        torch.testing.assert_close(summed, maps[-1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(*maps, rtol=1e-4, atol=1e-6)


def test_found_masks_are_the_same_in_both_hosts(kind: str):
    masks = []
    for in_diffusers in (False, True):
        network = Network(kind, in_diffusers)
        edit = local(network, None, None, words=((3, 4), (7,)))
        network([edit], prompts=(tuple(range(ROWS)),) * 2, conditional=(True, True))
        masks.append(edit._masks.masks(torch.device("cpu")).clone())
    assert masks[0].shape[:2] == (2, 2)
    torch.testing.assert_close(*masks, rtol=1e-4, atol=1e-4)


def test_other_packs_overrides_go_on_working(kind: str):
    """They see the sequence as it is, and what they give counts."""
    network, seen = Network(kind, False), []

    def override(function: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(query.shape[2])
        return function(query.roll(1, 2), *args, **kwargs)

    def run(edits: list[UNetEdit]) -> torch.Tensor:
        info = ForwardInfo(tuple(LATENT.shape), T, (True, True), ROWS, pictures=(0, 1))
        more = {"num_tokens": ROWS} if kind == "z_image" else {}
        options = {"optimized_attention_override": override}
        with edits_installed(network.sites, edits, info):
            return network.network(LATENT, T, context_of(kind), transformer_options=options, **more)

    plain, base = run([]), network()
    assert (plain - base).abs().max() > 1e-3
    before, seen[:] = list(seen), []
    torch.testing.assert_close(run([Looking()]), plain)
    assert seen == before
    run([local(network, torch.ones(10, 12))])
    in_blocks = before[-3:]
    assert seen[-3:] == in_blocks


def test_more_tokens_than_one_prompt_and_one_picture_are_refused(kind: str):
    network = Network(kind, False)
    with pytest.raises(ModelError, match="reference pictures"):
        network([local(network, torch.ones(10, 12))], context_length=ROWS + 40)
