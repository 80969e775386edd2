"""Concept Weaver on Z-Image and Krea 2: inverted flows, the picture's keys and values injected, a
text and a concept for each region."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from executor import Executor, node
from test_anima_weaver import MASKS, SENTENCE, close, template, without_vae
from test_single_python import python_host
from tiny_models import Graph, assert_same_state, state_of
from tiny_single import single_graph, single_kind
from weaver_graphs import (
    MODELS,
    SIDE,
    random_concept,
    sampler,
    values_of,
    with_core_nodes,
)
from weaver_graphs import (
    graph as weaver_graph,
)

sys.path.append(str(Path(__file__).parents[1]))

from conceptloom.attention.fusion import RegionSource
from conceptloom.attention.injection import InjectionBlocks, default_blocks
from conceptloom.attention.region_edits import region_edits
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.low_rank import LowRank
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.tinyworld_dit import load_tinyworld_dit
from conceptloom.methods.concept_weaver import (
    Keep,
    Mixing,
    Regions,
    RegionSpec,
    WeaveConfig,
    make_regions,
    weave,
)
from conceptloom.methods.concept_weaver.weave import host_injection
from conceptloom.samplers.sigmas import output_at

kind, graph = single_kind, single_graph


@pytest.fixture
def hosts(kind: str, graph: Graph) -> tuple[Any, Any]:
    pytest.importorskip("diffusers")
    ours = without_vae(ComfyHost(graph.model, graph.clip))
    return ours, without_vae(python_host(kind, graph))


def concept(host: Any, name: str) -> Concept:
    """Of every layer that reads text or picture, and a handle of two vectors."""
    weights = {}
    for number, site in enumerate(sorted(host.sites.layers, key=lambda site: site.name)):
        generator = torch.Generator().manual_seed(len(name) + number)
        rows, columns = host.weight(site.weight).shape
        up = 0.1 * torch.randn(rows, 2, generator=generator)
        weights[site.weight] = LowRank(up, torch.randn(2, columns, generator=generator) / columns)
    generator = torch.Generator().manual_seed(len(name))
    vectors = {e: torch.randn(2, width, generator=generator) for e, width in host.encoders.items()}
    return Concept(handles={name: vectors}, weights=weights, base=host.fingerprint, method="test")


def regions(host: Any, *, plain: bool = False) -> Regions:
    specs = [
        RegionSpec(concept=None if plain else concept(host, f"my-{word}"), word=word, mask=mask)
        for word, mask in zip(("cup", "toy"), MASKS, strict=True)
    ]
    return make_regions(SENTENCE, specs)


def test_keys_and_values_of_the_picture_keep_a_layout(hosts: tuple[Any, Any]):
    blocks = default_blocks(hosts[0].sites)
    assert blocks == InjectionBlocks((0, 1), (0, 1))
    ours, theirs = (template(host) for host in hosts)
    close(ours.trajectory, theirs.trajectory, 2e-5)
    for mine, other in zip(ours.features, theirs.features, strict=True):
        assert {kind for kind, _, _ in mine} <= {"key", "value"}
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            close(value.float(), other[key].float(), 2e-3)  # stored in half precision


@pytest.mark.parametrize("mixing", list(Mixing))
def test_weaving_is_the_same_in_both_hosts(hosts: tuple[Any, Any], graph: Graph, mixing: Mixing):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    config = WeaveConfig(cfg=3.0, mixing=mixing, suppression=0.2)
    latents = [
        weave(one, template(one, keep=Keep.NOTHING), regions(one), config).latent for one in hosts
    ]
    close(*latents, share=1e-4)
    plain = weave(hosts[0], template(hosts[0]), regions(hosts[0], plain=True), config).latent
    assert float((plain - latents[0]).abs().max()) > 0.02 * float(plain.abs().max())
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_a_template_s_own_features_change_nothing_and_another_s_do(hosts: tuple[Any, Any]):
    """Also beside the streams of regions, whose tokens no feature belongs to."""
    for host in hosts:
        inverted = template(host, keep=Keep.NOTHING)
        point, sigma = inverted.trajectory[2:3].to(host.device), float(inverted.sigmas[2])
        everywhere = torch.ones(1, 64, 96)
        source = RegionSource(inverted.prompt.context)

        def predicted(
            text: str, *edits: Any, host: Any = host, at: Any = (point, sigma)
        ) -> torch.Tensor:
            return output_at(host, *at, [host.encode_prompt(text)], edits)

        injection = host_injection(host, inverted, WeaveConfig(attention_until=1, resnet_until=1))
        plain = predicted(SENTENCE)
        close(predicted(SENTENCE, injection), plain, 2e-5)
        fused = region_edits(host.sites, [source], everywhere, 0.3, injection)
        close(predicted(SENTENCE, *fused), plain, 2e-5)
        other = predicted("blurry"), predicted("blurry", injection)
        assert float((other[0] - other[1]).abs().max()) > 1e-3 * float(plain.abs().max())


# through ComfyUI's executor, on TinyWorld's Z-Image with random weights


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    pytest.importorskip("diffusers")
    from unit.tiny_transformers import random_file

    with_core_nodes()
    with torch.inference_mode(False):
        path = random_file("zimage", tmp_path_factory.mktemp("dit") / "zimage.safetensors")
    with torch.inference_mode():
        return Graph(*load_tinyworld_dit("zimage", path))


def test_nodes_weave_and_their_sampler_starts_at_the_template(executor: Executor, world: Graph):
    before = state_of(world.model)
    concepts = {
        key: random_concept(world, name, "attention.to_k.weight")
        for key, name in (("cup", "my-cup"), ("toy", "my-toys"))
    }
    values = values_of(model=world.model, clip=world.clip, vae=world.vae, **concepts)
    one = node(
        "WeaveConcepts", **MODELS, template=["1", 0], regions=["2", 0], suppression=0.2,
        negative="blurry", resnet_until=0.8, attention_until=0.5, cfg=3.0, mixing="features",
    )  # fmt: skip
    inverted = {"scheduler": "simple", "keep": "recompute"}
    every = {**weaver_graph(invert=inverted), **sampler(), "6": one}
    result = executor.run(
        every, values, theirs=["5", 0], ours=["6", 1], image=["6", 0], report=["1", 4]
    )
    assert result.error == ""
    ours, theirs = (result.values[k]["samples"] for k in ("ours", "theirs"))
    close(ours, theirs, 1e-3)
    assert "values of the picture in blocks 0" in result.values["report"]
    assert result.values["image"].shape == (1, SIDE, SIDE, 3)
    assert_same_state(world.model, before)
