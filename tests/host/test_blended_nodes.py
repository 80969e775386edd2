"""Blended sampling and two-stage generation as nodes, in ComfyUI's own executor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from executor import Executor, given, node
from tiny_models import Graph, assert_same_state, graph_of, state_of

from conceptloom.host.comfyui.apply import apply_concept

SIDE = 64
QUICK = {
    "prompts": "a red cat",
    "negative": "",
    "seed": 3,
    "steps": 4,
    "cfg": 3.0,
    "scheduler": "ddim_uniform",
    "start": 1,
    "eta": 1.0,
    "free_steps": 0,
    "source_level": "same as the step",
    "inside": "noised source",
    "fresh_noise": True,
    "harmonise_steps": 0,
    "harmonise_prompt": "",
    "composite": True,
    "feather_px": 2,
}
LINKS = {name: given(name) for name in ("model", "clip", "vae", "image", "mask")}


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


def image(count: int = 1, side: int = SIDE) -> torch.Tensor:
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(0))


def mask(left: bool = True) -> torch.Tensor:
    found = torch.zeros(1, SIDE, SIDE)
    found[:, :, : SIDE // 2] = 1
    return found if left else 1 - found


IMAGE, MASK = image(), mask()


def values(models: Graph, **more: Any) -> dict[str, Any]:
    made = {"model": models.model, "clip": models.clip, "vae": models.vae}
    return {**made, "image": IMAGE, "mask": MASK, **more}


def edit(executor: Executor, models: Graph, inputs: dict[str, Any] | None = None, **more: Any):
    """Masked Blended Edit; `more` replaces what the sockets get."""
    given_values = values(models, **more)
    links = {name: given(name) for name in given_values}
    graph = {"1": node("MaskedBlendedEdit", **links, **{**QUICK, **(inputs or {})})}
    outputs = {"picture": ["1", 0], "latent": ["1", 1], "seam": ["1", 2]}
    return executor.run(graph, given_values, **outputs)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_outside_of_the_mask_every_pixel_stays(executor: Executor, family: str):
    models = graph_of(family)
    before = state_of(models.model)
    result = edit(executor, models)
    assert result.error == ""
    drawn = result.values["picture"]
    assert torch.equal(drawn[:, :, SIDE // 2 :], IMAGE[:, :, SIDE // 2 :])
    assert not torch.allclose(drawn[:, :, :16], IMAGE[:, :, :16], atol=0.02)
    source = models.vae.encode(IMAGE)
    latent = result.values["latent"]["samples"]
    torch.testing.assert_close(latent[..., 4:], source[..., 4:], rtol=1e-5, atol=1e-5)
    seam = result.values["seam"]
    assert torch.equal(seam > 0, MASK > 0)
    assert_same_state(models.model, before)


@pytest.mark.parametrize("last", [0, 2])
def test_a_scheduler_that_makes_more_steps_than_asked_for_ends_without_noise(
    executor: Executor, last: int
):
    models, ended, options = graph_of("sd1"), [], []
    watched = models.model.clone()

    def watch(
        run: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, *rest: Any, **more: Any
    ):
        ended.append((len(sigmas), float(sigmas[-1])))
        options.append(sampler.extra_options)
        return run(noise, latent, sampler, sigmas, *rest, **more)

    watched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "watch", watch)
    inputs = {"steps": 6, "harmonise_steps": last, "composite": False}  # 7 of ddim_uniform
    assert edit(executor, models, inputs, model=watched).error == ""
    assert ended[-1][1] == 0
    assert sum(levels - 1 for levels, _ in ended) == 7
    assert options[1:] == [{"eta": QUICK["eta"]}][:last]  # harmonising goes on with the same steps


def test_compositing_may_be_left_out(executor: Executor):
    result = edit(executor, graph_of("sd1"), {"composite": False})
    drawn = result.values["picture"]
    assert not torch.equal(drawn[:, :, SIDE // 2 :], IMAGE[:, :, SIDE // 2 :])


def test_regions_are_drawn_by_their_own_lines(executor: Executor):
    models, both = graph_of("sd1"), torch.cat([mask(), mask(left=False)])
    one = edit(executor, models, mask=both, inputs={"composite": False})
    two = edit(
        executor, models, mask=both, inputs={"prompts": "a red cat\na blue dog", "composite": False}
    )
    assert one.error == two.error == ""
    apart = (one.values["latent"]["samples"] - two.values["latent"]["samples"]).abs()
    assert apart[..., 4:].mean() > apart[..., :4].mean() * 1.2


def test_the_last_steps_may_be_the_base_models(executor: Executor):
    models = graph_of("sd1")
    name = "unet.middle_block.1.proj_out.bias"
    tuned, _ = apply_concept(models.model, models.clip, {name: 3 * torch.ones(64)}, {})
    inputs = {"harmonise_steps": 2, "harmonise_prompt": "a cat", "composite": False}
    with_base = edit(executor, models, inputs, model=tuned, base_model=models.model)
    without = edit(executor, models, inputs, model=tuned)
    assert with_base.error == without.error == ""
    first, second = (r.values["latent"]["samples"] for r in (with_base, without))
    assert first.isfinite().all()
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_first_harmonising_step_is_the_last_one_held_to_the_picture(executor: Executor):
    models = graph_of("sd1")
    same = {"eta": 0.0, "fresh_noise": False, "composite": False}
    two = edit(executor, models, {"harmonise_steps": 2, **same})
    one_free = edit(executor, models, {"free_steps": 1, **same})
    both_free = edit(executor, models, {"harmonise_steps": 2, "free_steps": 2, **same})
    latents = [run.values["latent"]["samples"] for run in (two, one_free, both_free)]
    torch.testing.assert_close(latents[0], latents[1], atol=1e-4, rtol=1e-4)
    free = edit(executor, models, {"free_steps": 2, **same}).values["latent"]["samples"]
    torch.testing.assert_close(latents[2], free, atol=1e-4, rtol=1e-4)


def test_guidance_works_inside_of_an_edit(executor: Executor):
    models = graph_of("sd1")
    guide = node(
        "CrossAttentionGuidance", model=given("model"), clip=given("clip"), mask=given("mask"),
        words="cat", eta=0.1, steps=4, rule="sign", level=0, save_memory=False,
    )  # fmt: skip
    inputs = {**LINKS, **QUICK, "model": ["1", 0], "clip": ["1", 1]}
    graph = {"1": guide, "2": node("MaskedBlendedEdit", **inputs)}
    result = executor.run(graph, values(models), picture=["2", 0])
    assert result.error == ""
    plain = edit(executor, models).values["picture"]
    assert torch.equal(result.values["picture"][:, :, 32:], IMAGE[:, :, 32:])
    assert not torch.allclose(result.values["picture"], plain, atol=1e-3)


def test_a_mask_of_another_aspect_is_no_target_of_guidance(executor: Executor):
    models = graph_of("sd1")
    guide = node(
        "CrossAttentionGuidance", model=given("model"), clip=given("clip"), mask=given("target"),
        words="cat", eta=0.1, steps=4, rule="sign", level=0, save_memory=False,
    )  # fmt: skip
    inputs = {**LINKS, **QUICK, "model": ["1", 0], "clip": ["1", 1]}
    graph = {"1": guide, "2": node("MaskedBlendedEdit", **inputs)}
    wide = values(models, target=torch.ones(1, SIDE, 2 * SIDE))
    assert "same aspect" in executor.run(graph, wide, picture=["2", 0]).error


def blend_of(sampler: list, latent: Any = ("latent",)) -> dict[str, dict]:
    """SamplerCustomAdvanced around a SAMPLER."""
    core = {
        "noise": ("RandomNoise", {"noise_seed": 3}),
        "guide": (
            "CFGGuider",
            {
                "model": given("model"), "positive": ["text", 0], "negative": ["none", 0],
                "cfg": 3.0,
            },
        ),
        "sigmas": (
            "BasicScheduler",
            {"model": given("model"), "scheduler": "ddim_uniform", "steps": 4, "denoise": 1.0},
        ),
        "text": ("CLIPTextEncode", {"clip": given("clip"), "text": "a red cat"}),
        "none": ("CLIPTextEncode", {"clip": given("clip"), "text": ""}),
        "draw": (
            "SamplerCustomAdvanced",
            {
                "noise": ["noise", 0], "guider": ["guide", 0], "sampler": sampler,
                "sigmas": ["sigmas", 0], "latent_image": given(*latent),
            },
        ),
    }  # fmt: skip
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in core.items()}


@pytest.fixture(scope="module")
def core_nodes() -> None:
    """The host's custom sampling nodes, which its server loads at the start."""
    import asyncio
    from pathlib import Path

    import folder_paths
    import nodes

    extras = Path(folder_paths.base_path) / "comfy_extras" / "nodes_custom_sampler.py"
    assert asyncio.run(nodes.load_custom_node(str(extras), module_parent="comfy_extras"))


@pytest.mark.usefixtures("core_nodes")
def test_the_sampler_and_the_one_piece_node_draw_the_same(executor: Executor):
    models = graph_of("sd1")
    settings = {name: QUICK[name] for name in ("start", "eta", "free_steps", "source_level")}
    settings |= {"inside": QUICK["inside"], "fresh_noise": True}
    sampler = node("MaskedBlendedSampler", mask=given("mask"), **settings)
    latent = {"samples": models.vae.encode(IMAGE)}
    graph = {"1": sampler, **blend_of(["1", 0])}
    result = executor.run(graph, values(models, latent=latent), drawn=["draw", 0])
    assert result.error == ""
    whole = edit(executor, models, {"composite": False}).values["latent"]["samples"]
    torch.testing.assert_close(result.values["drawn"]["samples"], whole)


@pytest.mark.usefixtures("core_nodes")
def test_the_latents_own_noise_mask_serves_and_nothing_else_does(executor: Executor):
    models = graph_of("sd1")
    settings = {name: QUICK[name] for name in ("start", "eta", "free_steps", "source_level")}
    settings |= {"inside": QUICK["inside"], "fresh_noise": True}
    graph = {"1": node("MaskedBlendedSampler", **settings), **blend_of(["1", 0])}
    latent = {"samples": models.vae.encode(IMAGE)}
    masked = {**latent, "noise_mask": MASK[:, None]}
    result = executor.run(graph, values(models, latent=masked), drawn=["draw", 0])
    assert result.error == ""
    drawn = result.values["drawn"]["samples"]
    torch.testing.assert_close(drawn[..., 5:], latent["samples"][..., 5:], atol=1e-5, rtol=1e-5)
    result = executor.run(graph, values(models, latent=latent), drawn=["draw", 0])
    assert "No mask is connected" in result.error
    empty = {"samples": torch.zeros(1, 4, 8, 8), "noise_mask": MASK[:, None]}
    result = executor.run(graph, values(models, latent=empty), drawn=["draw", 0])
    assert "latent image is empty" in result.error


@pytest.mark.parametrize(
    ("inputs", "sockets", "told"),
    [
        ({"start": 9}, {}, "start is 9; it must be below the 4 steps"),
        ({"harmonise_steps": 3}, {}, "harmonise_steps"),
        ({"prompts": "a\nb\nc"}, {}, "3 prompts came for 1 masks"),
        ({}, {"mask": torch.zeros(1, SIDE, SIDE)}, "The mask is empty"),
        ({}, {"mask": torch.ones(1, SIDE, 2 * SIDE)}, "same aspect"),
        ({}, {"image": image(side=60)}, "60x60 px; its sides must be multiples of 8"),
    ],
)
def test_bad_input_is_reported(executor: Executor, inputs: dict, sockets: dict, told: str):
    result = edit(executor, graph_of("sd1"), inputs, **sockets)
    assert told in result.error


def test_masks_of_another_size_and_full_ones_serve(executor: Executor):
    models = graph_of("sd1")
    small = torch.nn.functional.interpolate(MASK[None], (32, 32))[0]
    assert edit(executor, models, mask=small).error == ""
    full = edit(executor, models, mask=torch.ones(1, SIDE, SIDE))
    assert full.error == ""
    assert not torch.allclose(full.values["picture"], IMAGE, atol=0.05)


def test_the_seam_node_leaves_the_outside_alone(executor: Executor):
    drawn = image(2).flip(0)
    graph = {
        "1": node(
            "CompositeSeam", drawn=given("drawn"), source=given("source"), mask=given("mask"),
            feather_px=3,
        )
    }  # fmt: skip
    with_alpha = torch.cat([drawn, torch.ones(*drawn.shape[:3], 1)], dim=-1)
    given_images = {"drawn": with_alpha, "source": IMAGE, "mask": MASK}
    result = executor.run(graph, given_images, out=["1", 0])
    assert result.error == ""
    assert torch.equal(result.values["out"][0, :, 32:], IMAGE[0, :, 32:])
    assert torch.equal(result.values["out"][:, :, :28], drawn[:, :, :28])


def two_stages(executor: Executor, models: Graph, base_steps: int) -> Any:
    name = "unet.middle_block.1.proj_out.bias"
    tuned, _ = apply_concept(models.model, models.clip, {name: 3 * torch.ones(64)}, {})
    encoded = {
        name: models.clip.encode_from_tokens_scheduled(models.clip.tokenize(text))
        for name, text in (("base", "a cat"), ("style", "a cat, red"), ("none", ""))
    }
    graph = {
        "1": node(
            "TwoStageGeneration", base_model=given("model"), model=given("tuned"),
            base_positive=given("base"), positive=given("style"), negative=given("none"),
            latent_image=given("latent"), base_steps=base_steps, seed=3, steps=4, cfg=2.0,
            sampler_name="euler", scheduler="normal",
        )
    }  # fmt: skip
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    given_values = {"model": models.model, "tuned": tuned, "latent": latent, **encoded}
    return executor.run(graph, given_values, drawn=["1", 0])


def test_two_stages_change_model_and_prompt_on_the_way(executor: Executor):
    models = graph_of("sd1")
    before = state_of(models.model)
    results = [two_stages(executor, models, steps) for steps in (0, 2, 4)]
    assert [r.error for r in results] == ["", "", ""]
    concept, both, base = (r.values["drawn"]["samples"] for r in results)
    assert not torch.allclose(concept, both, atol=1e-2)
    assert not torch.allclose(base, both, atol=1e-2)
    from nodes import KSampler

    text, none = (
        models.clip.encode_from_tokens_scheduled(models.clip.tokenize(t)) for t in ("a cat", "")
    )
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    plain = KSampler().sample(models.model, 3, 4, 2.0, "euler", "normal", text, none, latent, 1.0)
    assert torch.equal(plain[0]["samples"], base)
    assert_same_state(models.model, before)
    assert "base_steps is 9" in two_stages(executor, models, 9).error
