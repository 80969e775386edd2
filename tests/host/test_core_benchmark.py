"""What `speed core` of the benchmarks compares: every graph runs, and does what it is there for."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import graph_of

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from speed.comfyui import ComfySession, models_of, values_of, with_defaults
from speed.core_graphs import GROUPS, WORDS, Run, lora_of, node
from speed.core_worker import WAYS, edit

RUN, LATENT = Run(seed=1, steps=2, cfg=4.0), 8
EACH = [(name, variant) for name, group in GROUPS.items() for variant in group.variants]


@pytest.fixture
def stage(folders: Path) -> ComfySession:
    """A small model of random weights, and concepts among this test's own LoRAs."""
    found = ComfySession()
    found.values = values_of(vars(graph_of("sd1")), LATENT)
    return found


def drawn(stage: ComfySession, name: str, variant: str, run: Run = RUN) -> torch.Tensor:
    group = GROUPS[name]
    return stage.draw(group.variants[variant], replace(run, count=group.count))


@pytest.mark.parametrize(("name", "variant"), EACH)
def test_every_variant_draws_something_of_its_own(stage: ComfySession, name: str, variant: str):
    found = drawn(stage, name, variant)
    assert found.shape == (1, 4, LATENT, LATENT)
    assert found.isfinite().all()
    if variant != "plain":
        assert not torch.allclose(found, drawn(stage, name, "plain"), atol=1e-2)


@pytest.mark.parametrize("variant", ["ours", "noise mask"])
def test_edits_leave_the_latents_outside_alone(stage: ComfySession, variant: str):
    source = stage.values["vae"].encode(stage.values["image"])
    near = torch.nn.functional.max_pool2d(stage.values["mask 0"][None], 24, 8, 8)  # a cell around
    outside = (near == 0).expand_as(source)
    torch.testing.assert_close(
        drawn(stage, "mask", variant)[outside], source[outside], atol=1e-4, rtol=1e-4
    )


def test_lag_without_localising_is_load_lora(stage: ComfySession):
    """What is compared are the same concepts."""
    text = "a photo of <my-cup> cup"
    with_lag = GROUPS["lag-1"].variants["ours"].graph(RUN)
    with_lag["lag 0"]["inputs"]["localised"] = False
    with_lag["positive"]["inputs"]["text"] = text
    with_lora = GROUPS["lag-1"].variants["loras"].graph(RUN)
    with_lora["lag 0"] = with_lag["lag 0"]  # for the name; its model is not drawn with
    with_lora["positive"]["inputs"] = {"text": text, "clip": ["lag 0", 1]}
    found = [stage.run(g, drawn=["drawn", 0])["drawn"]["samples"] for g in (with_lag, with_lora)]
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("variant", ["hooks", "masks", "samplers"])
def test_the_lora_of_every_region_counts(stage: ComfySession, variant: str, number: int):
    run, make = replace(RUN, count=2), GROUPS["weave-2"].variants[variant].graph
    with_all, without = make(run), make(run)
    file = lora_of("woven", WORDS[number])
    (loader,) = [n["inputs"] for n in without.values() if n["inputs"].get("lora_name") == file]
    loader |= {"strength_model": 0.0, "strength_clip": 0.0}
    found = [stage.run(g, drawn=["drawn", 0])["drawn"]["samples"] for g in (with_all, without)]
    assert not torch.allclose(*found, atol=1e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_every_woven_concept_counts(stage: ComfySession, number: int):
    with_all = drawn(stage, "weave-2", "ours")
    name = f"woven-{WORDS[number]}"
    concept = stage.values[name]
    nothing = {n: replace(change, up=0 * change.up) for n, change in concept.weights.items()}
    stage.values[name] = replace(concept, weights=nothing)
    assert not torch.allclose(drawn(stage, "weave-2", "ours"), with_all, atol=1e-3)


def test_a_new_picture_is_inverted_anew_and_another_seed_is_not(stage: ComfySession, monkeypatch):
    from executor import pack_nodes

    node_class, calls = pack_nodes()["ConceptLoomInvertTemplate"], []
    execute = node_class.execute.__func__

    def watched(cls, *args, **inputs):
        calls.append(1)
        return execute(cls, *args, **inputs)

    monkeypatch.setattr(node_class, "execute", classmethod(watched))
    for variant, expected in (("ours", 1), ("ours, new template", 3)):
        calls.clear()
        for seed in (1, 2, 3):
            drawn(stage, "weave-2", variant, replace(RUN, seed=seed))
        assert len(calls) == expected, variant


def test_left_out_widgets_have_the_value_that_a_node_is_dropped_with():
    ComfySession()  # loads the nodes
    graph = {"1": node("KSampler", seed=5), "2": node("SetClipHooks")}
    filled = with_defaults(graph)
    assert filled["1"]["inputs"]["seed"] == 5
    assert filled["1"]["inputs"]["steps"] == 20
    assert filled["1"]["inputs"]["sampler_name"] == "euler"
    assert filled["2"]["inputs"] == {"apply_to_conds": True, "schedule_clip": False}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_every_way_to_edit_gives_both_pictures(stage: ComfySession, way):
    image, mask = stage.values["image"], stage.values["mask 0"]
    found = stage.run(edit(way, "a cup", 1), decoded=["decoded", 0], pasted=["pasted", 0])
    outside = mask == 0
    torch.testing.assert_close(found["pasted"][outside], image[outside], atol=1e-6, rtol=0)
    assert not torch.allclose(found["decoded"][outside], image[outside], atol=1e-2)
    assert not torch.allclose(found["pasted"][~outside], image[~outside], atol=1e-2)


def test_a_checkpoint_is_opened_in_the_precision_that_the_page_tells(monkeypatch):
    import comfy.sd

    asked = {}

    def loaded(path: str, **more: object) -> tuple[str, ...]:
        asked[path] = more
        return "MODEL", "CLIP", "VAE", "vision"

    monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", loaded)
    given = argparse.Namespace(checkpoint=Path("sd15.safetensors"), dtype="bf16")
    assert models_of(given) == {"model": "MODEL", "clip": "CLIP", "vae": "VAE"}
    assert asked == {"sd15.safetensors": {"model_options": {"dtype": torch.bfloat16}}}
