"""Concept Weaver on Anima: inverted flows, injected self-attention, several texts on a query."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from anima_models import BLOCKS, anima, in_diffusers
from executor import Executor, given, node
from test_anima_concepts import concept_of
from tiny_models import Graph, assert_same_state, state_of
from weaver_graphs import (
    MODELS,
    SIDE,
    STEPS,
    graph,
    random_concept,
    sampler,
    values_of,
    with_core_nodes,
)

sys.path.append(str(Path(__file__).parents[1]))

from conceptloom.attention.injection import InjectionBlocks, default_blocks
from conceptloom.errors import ConfigError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.tinyworld_dit import load_tinyworld_dit
from conceptloom.methods.concept_weaver import (
    InversionConfig,
    Keep,
    Mixing,
    Regions,
    RegionSpec,
    Template,
    WeaveConfig,
    make_regions,
    make_template,
    weave,
)
from conceptloom.methods.concept_weaver.template import check_sigmas

SENTENCE = "a photo of a red cup and a small toy"
IMAGE = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
MASKS = torch.zeros(2, 64, 96)
MASKS[0, 8:-8, :40] = 1
MASKS[1, 8:-8, 56:] = 1
pytestmark = pytest.mark.usefixtures("folders")


def encoded(image: torch.Tensor) -> torch.Tensor:
    """In place of a VAE: means of 8x8 pixels, mixed into 16 channels."""
    mix = torch.randn(16, 3, generator=torch.Generator().manual_seed(9))
    return torch.einsum("bchw,oc->bohw", F.avg_pool2d(image.movedim(-1, 1), 8) - 0.5, mix)


def without_vae(host: Any) -> Any:
    host.encode_image, host.pixels_per_latent = encoded, 8
    host.decode_latent = lambda latent: latent[:, :3].movedim(1, -1).cpu().sigmoid()
    return host


@pytest.fixture
def host() -> ComfyHost:
    models = anima()
    return without_vae(ComfyHost(models.model, models.clip))


@pytest.fixture(scope="module")
def other() -> Any:
    pytest.importorskip("diffusers")
    return without_vae(in_diffusers(anima()))


def template(host: Any, steps: int = 6, **config: Any) -> Template:
    levels = host.noise_path.levels(steps)
    return make_template(host, IMAGE, SENTENCE, levels, InversionConfig(**config))


def regions(host: Any, *, plain: bool = False) -> Regions:
    specs = [
        RegionSpec(concept=None if plain else concept_of(host, f"my-{word}"), word=word, mask=mask)
        for word, mask in zip(("cup", "toy"), MASKS, strict=True)
    ]
    return make_regions(SENTENCE, specs)


def close(ours: torch.Tensor, theirs: torch.Tensor, share: float = 1e-5) -> None:
    size = float(theirs.abs().max())
    torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=0, atol=share * size)


def test_values_take_the_place_of_resnets(host: ComfyHost):
    blocks = default_blocks(host.sites)
    assert blocks == InjectionBlocks(tuple(range(BLOCKS - 1)), (2, 3, 4))
    kinds = [site.kind.value for site in blocks.sites(host.sites)]
    assert (kinds.count("value"), kinds.count("query"), kinds.count("key")) == (BLOCKS - 1, 3, 3)
    with pytest.raises(ConfigError, match=f"resnet_blocks is {BLOCKS}"):
        template(host, resnet_blocks=(BLOCKS,))


def test_an_inverted_picture_is_drawn_again(host: ComfyHost, other: Any):
    ours, theirs = template(host), template(other)
    close(ours.trajectory, theirs.trajectory)
    assert float(ours.sigmas[0]) == pytest.approx(0.9999)
    by_refinements = [template(host, refinements=n).psnr for n in (0, 8)]
    assert by_refinements[0] + 5 < ours.psnr < by_refinements[1] - 5
    assert by_refinements[1] > 45
    for mine, other_hosts in zip(ours.features, theirs.features, strict=True):
        assert mine.keys() == other_hosts.keys()
        for key, value in mine.items():
            close(value.float(), other_hosts[key].float(), 2e-3)  # stored in half precision


@pytest.mark.parametrize("mixing", list(Mixing))
def test_weaving_is_the_same_in_both_hosts(host: ComfyHost, other: Any, mixing: Mixing):
    before = state_of(anima().model), state_of(anima().clip.patcher)
    config = WeaveConfig(cfg=3.0, mixing=mixing)
    latents = [
        weave(one, template(one, keep=Keep.NOTHING), regions(one), config).latent
        for one in (host, other)
    ]
    close(*latents, share=2e-5)
    plain = weave(host, template(host), regions(host, plain=True), config).latent
    assert float((plain - latents[0]).abs().max()) > 0.02 * float(plain.abs().max())
    assert_same_state(anima().model, before[0])
    assert_same_state(anima().clip.patcher, before[1])


def test_a_templates_own_features_redraw_it(host: ComfyHost):
    """Without concepts, guidance and suppression every setting draws the template."""
    inverted = template(host, keep=Keep.NOTHING, refinements=12)
    everywhere = regions(host, plain=True)
    same = Regions(
        tuple(type(p)(p.name, SENTENCE) for p in everywhere.parts), everywhere.masks, SENTENCE
    )
    for until in ((0.0, 0.0), (1.0, 1.0)):
        config = WeaveConfig(
            cfg=1.0, suppression=0.0, resnet_until=until[0], attention_until=until[1]
        )
        close(weave(host, inverted, same, config).latent, inverted.trajectory[-1:], 0.02)


def test_a_run_from_pure_noise_is_refused(host: ComfyHost):
    inverted, highest = template(host), host.noise_path.highest_start
    check_sigmas(inverted, inverted.sigmas, highest)
    with pytest.raises(ConfigError, match="connect the template's sigmas"):
        check_sigmas(inverted, host.noise_path.levels(6), highest)


# through ComfyUI's executor, on TinyWorld's Anima with random weights


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    pytest.importorskip("diffusers")
    from unit.tiny_transformers import random_file

    with_core_nodes()
    with torch.inference_mode(False):
        path = random_file("anima", tmp_path_factory.mktemp("dit") / "anima.safetensors")
    with torch.inference_mode():
        return Graph(*load_tinyworld_dit("anima", path))


def values(world: Graph) -> dict[str, Any]:
    concepts = {
        key: random_concept(world, name, ".cross_attn.k_proj.weight")
        for key, name in (("cup", "my-cup"), ("toy", "my-toys"))
    }
    return values_of(model=world.model, clip=world.clip, vae=world.vae, **concepts)


def test_nodes_weave_and_their_sampler_starts_at_the_template(executor: Executor, world: Graph):
    before = state_of(world.model)
    one = node(
        "WeaveConcepts", **MODELS, template=["1", 0], regions=["2", 0], suppression=0.2,
        negative="blurry", resnet_until=0.8, attention_until=0.5, cfg=3.0, mixing="features",
    )  # fmt: skip
    every = {**graph(invert={"scheduler": "simple", "keep": "recompute"}), **sampler(), "6": one}
    result = executor.run(
        every, values(world), theirs=["5", 0], ours=["6", 1], image=["6", 0], start=["1", 2],
        template=["1", 0], report=["1", 4],
    )  # fmt: skip
    assert result.error == ""
    ours, theirs = (result.values[k]["samples"] for k in ("ours", "theirs"))
    assert ours.shape == theirs.shape == result.values["start"]["samples"].shape
    assert ours.ndim == 5
    close(ours, theirs, 1e-3)
    inverted = result.values["template"]
    assert len(inverted.sigmas) == STEPS + 1
    assert float(inverted.sigmas[0]) == pytest.approx(0.9999)
    assert "values of self-attention in blocks 0" in result.values["report"]
    assert result.values["image"].shape == (1, SIDE, SIDE, 3)
    assert_same_state(world.model, before)


def test_pure_noise_instead_of_the_templates_is_refused(executor: Executor, world: Graph):
    sigmas = torch.tensor([1.0, 0.9, 0.75, 0.0])
    links = {"sigmas": given("levels")}
    result = executor.run(
        {**graph(invert={"scheduler": "simple", "sigmas": given("levels")}), **sampler(**links)},
        {**values(world), "levels": sigmas},
        out=["5", 0],
    )
    assert "connect the template's sigmas" in result.error
