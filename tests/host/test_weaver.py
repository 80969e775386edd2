"""Concept Weaver's nodes through ComfyUI's own executor and under its own samplers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from executor import Executor, Result, given, node
from tiny_models import Graph, assert_same_state, graph_of, state_of

SIDE, STEPS = 64, 3
SENTENCE = "a photo of a cup and a toy"
MODEL = {"model": given("model"), "clip": given("clip")}
MODELS = {**MODEL, "vae": given("vae")}
IMAGE = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
MASKS = torch.zeros(2, SIDE, SIDE)
MASKS[0, 8:-8, 4:28] = 1
MASKS[1, 8:-8, 36:60] = 1


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor) -> Path:
    known = dict(folder_paths.folder_names_and_paths)
    monkeypatch.setitem(known, "concepts", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    folder_paths.filename_list_cache.clear()
    return tmp_path


def pack(name: str) -> Any:
    """A module of the pack as ComfyUI loaded it: its classes are not those of `conceptloom`."""
    import importlib
    import sys

    from executor import pack_nodes

    root = sys.modules[pack_nodes()["ConceptLoomRegions"].__module__].__package__.rpartition(".")[0]
    return importlib.import_module(f"{root}.{name}")


_concepts: dict[tuple[str, str, str], Any] = {}


def concept(family: str, name: str, parts: str = ".attn2.to_k.weight") -> Any:
    """The same object every time, so that ComfyUI's cache knows it."""
    if (family, name, parts) not in _concepts:
        host = pack("host.comfyui.host").ComfyHost(*vars(graph_of(family)).values())
        concepts = pack("training.concept")
        draw = torch.Generator().manual_seed(len(name))
        weights = {
            weight: concepts.Diff(0.3 * torch.randn(host.weight(weight).shape, generator=draw))
            for weight in host.weight_names()
            if weight.endswith(parts)
        }
        vectors = {e: torch.randn(1, width, generator=draw) for e, width in host.encoders.items()}
        _concepts[family, name, parts] = concepts.Concept(
            handles={name: vectors}, weights=weights, base=host.fingerprint, method="test"
        )
    return _concepts[family, name, parts]


def values_of(family: str = "sd1", **more: Any) -> dict[str, Any]:
    models = graph_of(family)
    return {
        "model": models.model,
        "clip": models.clip,
        "vae": models.vae,
        "image": IMAGE,
        "masks": MASKS,
        "cup": concept(family, "my-cup"),
        "toy": concept(family, "my-toys"),
        **more,
    }


def graph(**changes: dict[str, Any]) -> dict[str, dict]:
    """Template (1), regions (2), fuser (3); `changes` replace inputs of them by their names."""
    inputs: dict[str, dict[str, Any]] = {
        "invert": {
            **MODELS, "image": given("image"), "prompt": SENTENCE, "steps": STEPS,
            "scheduler": "ddim_uniform", "refinements": 0, "keep": "RAM", "resnet_until": 0.8,
            "attention_until": 0.5, "resnet_blocks": "", "attention_blocks": "",
        },
        "regions": {
            "concepts__concept0": given("cup"), "concepts__concept1": given("toy"),
            "masks__mask0": given("masks"), "sentence": SENTENCE, "words": "cup\ntoy",
            "background": "", "dilate": 0.05, "priority": "first", "template": ["1", 0],
        },
        "fuse": {
            **MODEL, "template": ["1", 0], "regions": ["2", 0], "suppression": 0.2,
            "negative": "blurry", "resnet_until": 0.8, "attention_until": 0.5,
        },
    }  # fmt: skip
    for name, change in changes.items():
        inputs[name] |= change
        inputs[name] = {k: v for k, v in inputs[name].items() if v is not None}
    return {
        "1": node("InvertTemplate", **inputs["invert"]),
        "2": node("Regions", **inputs["regions"]),
        "3": node("RegionFeatureFuser", **inputs["fuse"]),
    }


def sampler(cfg: float = 3.0, kind: str = "euler", **links: Any) -> dict[str, dict]:
    """ComfyUI's own SamplerCustom on what the fuser gives, as nodes 4 and 5."""
    inputs = {
        "model": ["3", 0], "positive": ["3", 1], "negative": ["3", 2], "latent_image": ["3", 3],
        "sigmas": ["3", 4], "sampler": ["4", 0], "add_noise": False, "noise_seed": 0, "cfg": cfg,
    }  # fmt: skip
    return {
        "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": kind}},
        "5": {"class_type": "SamplerCustom", "inputs": inputs | links},
    }


@pytest.fixture(scope="session", autouse=True)
def core_nodes() -> None:
    """The samplers that a user connects."""
    import asyncio

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())


def run(executor: Executor, family: str = "sd1", **changes: Any) -> Result:
    values = changes.pop("values", {})
    wanted = {"template": ["1", 0], "regions": ["2", 0], "model": ["3", 0]}
    return executor.run(graph(**changes), values_of(family, **values), **wanted)


def woven(executor: Executor, family: str = "sd1", **changes: Any) -> Result:
    values, how = changes.pop("values", {}), changes.pop("sampler", {})
    every = {**graph(**changes), **sampler(**how)}
    return executor.run(every, values_of(family, **values), latent=["5", 0], out=["5", 1])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_template_is_inverted_shared_out_and_woven(executor: Executor, family: str):
    before = state_of(graph_of(family).model)
    wanted = {
        "sigmas": ["1", 1], "start": ["1", 2], "back": ["1", 3], "told": ["1", 4],
        "preview": ["2", 1], "prompts": ["2", 2], "latent": ["5", 0],
    }  # fmt: skip
    result = executor.run({**graph(), **sampler()}, values_of(family), **wanted)
    assert result.error == ""
    values = result.values
    assert len(values["sigmas"]) == STEPS + 1
    assert values["back"].shape == (1, SIDE, SIDE, 3)
    assert values["told"].startswith("reconstruction: ")
    assert values["start"]["samples"].shape == (1, 4, 8, 8)
    assert values["preview"].ndim == 4
    assert values["prompts"].splitlines()[1] == "<my-cup>: a photo of a <my-cup>"
    assert values["latent"]["samples"].isfinite().all()
    assert_same_state(graph_of(family).model, before)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_the_one_piece_node_draws_what_the_sampler_draws(executor: Executor, family: str):
    one = node(
        "WeaveConcepts", **MODELS, template=["1", 0], regions=["2", 0], suppression=0.2,
        negative="blurry", resnet_until=0.8, attention_until=0.5, cfg=3.0, mixing="features",
    )  # fmt: skip
    every = {**graph(), **sampler(), "6": one}
    result = executor.run(every, values_of(family), theirs=["5", 0], ours=["6", 1], image=["6", 0])
    assert result.error == ""
    ours, theirs = (result.values[k]["samples"] for k in ("ours", "theirs"))
    torch.testing.assert_close(ours, theirs.cpu(), rtol=2e-2, atol=2e-2 * float(theirs.abs().max()))
    assert result.values["image"].shape == (1, SIDE, SIDE, 3)


def test_thresholds_of_zero_and_plain_regions_are_plain_sampling(executor: Executor):
    empty = replace(concept("sd1", "my-cup"), handles={}, weights={})
    off = {"resnet_until": 0.0, "attention_until": 0.0, "suppression": 0.0}
    words = f"cup: {SENTENCE}\ntoy: {SENTENCE}"
    result = woven(
        executor, values={"cup": empty, "toy": empty}, fuse=off, regions={"words": words}
    )
    assert result.error == ""
    plain = {**graph(fuse=off), **sampler(model=given("model"))}
    expected = executor.run(plain, values_of(), latent=["5", 0])
    torch.testing.assert_close(
        result.values["latent"]["samples"], expected.values["latent"]["samples"],
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_features_that_are_not_kept_are_computed_inside_of_the_sampler(
    executor: Executor, family: str
):
    found = [
        woven(executor, family, invert={"keep": keep}).values["latent"]["samples"]
        for keep in ("RAM", "GPU", "recompute", "auto")
    ]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


@pytest.mark.parametrize("kind", ["ddim", "dpmpp_2m", "heun"])
def test_other_samplers_take_it(executor: Executor, kind: str):
    result = woven(executor, sampler={"kind": kind})
    assert result.error == ""
    assert result.values["latent"]["samples"].isfinite().all()


def test_the_samplers_own_sigmas_can_be_given(executor: Executor):
    karras = torch.tensor([8.0, 3.0, 1.0, 0.2, 0.0])
    result = run(executor, values={"sigmas": karras}, invert={"sigmas": given("sigmas")})
    assert result.error == ""
    assert torch.equal(result.values["template"].sigmas, karras)


def test_a_background_concept_and_prompts_by_hand(executor: Executor):
    result = run(
        executor,
        values={"room": concept("sd1", "my-bedroom")},
        regions={
            "background_concept": given("room"), "background": "photo",
            "words": "cup: one <my-cup>\ntoy",
        },
    )  # fmt: skip
    assert result.error == ""
    regions = result.values["regions"]
    assert [part.prompt for part in regions.parts] == [
        "one <my-cup>", "a photo of a <my-toys>", "a <my-bedroom> of a cup and a toy",
    ]  # fmt: skip
    assert torch.equal(regions.masks.sum(dim=0), torch.ones(SIDE, SIDE))


def test_residuals_on_the_output_projection_are_taken(executor: Executor):
    kinds = [concept("sd1", "my-cup"), concept("sd1", "my-cup", ".proj_out.weight")]
    found = [woven(executor, values={"cup": kind}).values["latent"]["samples"] for kind in kinds]
    assert not torch.allclose(*found, atol=1e-3)


def test_cancelling_during_inversion_leaves_nothing(
    executor: Executor, sd1: Graph, monkeypatch: pytest.MonkeyPatch
):
    before, calls = state_of(sd1.model), []

    def stop_at(self: Any, value: int, *args: Any) -> None:
        calls.append(value)
        if value == 2:
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", stop_at)
    result = run(executor, invert={"prompt": "cancelled"})
    assert result.was_cancelled
    assert max(calls) == 2
    assert_same_state(sd1.model, before)


# What is refused


@pytest.mark.parametrize(
    ("changes", "values", "kind", "told"),
    [
        ({}, {"masks": torch.zeros(2, SIDE, SIDE)}, "MaskError", "region of <my-cup> is empty"),
        ({}, {"masks": MASKS[:1]}, "MaskError", "1 masks came for 2 concepts"),
        ({}, {"masks": MASKS.repeat(2, 1, 1)}, "MaskError", "4 masks came for 2 concepts"),
        ({"words": "cup"}, {}, "ConfigError", "one line for each of the 2 concepts"),
        ({"words": "cup\nlamp"}, {}, "PromptError", "does not hold 'lamp'"),
        ({"words": "cup: a cup\ntoy"}, {}, "PromptError", "does not hold <my-cup>"),
        ({}, {"masks": MASKS[:, ::2]}, "MaskError", "but the template is 64x64 px"),
        ({}, {"image": IMAGE.repeat(2, 1, 1, 1)}, "ImageError", "a template is one picture"),
    ],
)
def test_bad_regions_are_refused(
    executor: Executor, changes: dict, values: dict, kind: str, told: str
):
    result = run(executor, regions=changes, values=values)
    assert result.kind == kind
    assert told in result.error


def test_concepts_of_another_kind_are_refused(executor: Executor):
    too_much = concept("sd1", "my-cup", ".attn2.to_q.weight")
    assert "that all regions share" in run(executor, values={"cup": too_much}).error
    foreign = replace(concept("sd1", "my-cup"), base="another model")
    result = run(executor, values={"cup": foreign})
    assert result.kind == "BaseMismatchError"
    assert "learned on the base model [another model]" in result.error


def test_templates_of_another_model_size_or_sigmas_are_refused(executor: Executor, sd1: Graph):
    template = run(executor, invert={"prompt": "a picture of its own"}).values["template"]
    other = replace(template, model="another checkpoint")
    given_template = {"template": given("template")}
    result = run(executor, values={"template": other}, fuse=given_template, regions=given_template)
    assert result.kind == "BaseMismatchError"
    assert "the same family, another checkpoint" in result.error
    more = {"sigmas": given("sigmas"), "latent_image": given("latent")}
    values = {"sigmas": template.sigmas, "latent": {"samples": torch.ones(1, 4, 8, 10)}}
    result = woven(executor, values=values, sampler=more)
    assert result.kind == "ImageError"
    assert "connect the template's own latent" in result.error
    values["sigmas"] = template.sigmas * 1.2
    result = woven(executor, values=values, sampler=more)
    assert result.kind == "ConfigError"
    assert "those of the template" in result.error
    for name in ("resnet_blocks", "attention_blocks"):
        assert f"{name} is 77" in run(executor, invert={name: "77"}).error


# The bank


def saved(folder: Path, name: str, **changes: Any) -> None:
    learned = replace(concept("sd1", "my-cup"), **changes)
    pack("training.concept_file").save_concept(learned, folder / name)
    folder_paths.filename_list_cache.clear()


def bank(executor: Executor, **inputs: Any) -> Result:
    every = {"folder": "", "filter": "", "pick": 1, **inputs}
    values = {k: v for k, v in values_of().items() if k in ("model", "clip")}
    wanted = {"concept": ["1", 0], "sheet": ["1", 1], "list": ["1", 2]}
    return executor.run({"1": node("ConceptBank", **every)}, values, **wanted)


def test_a_bank_lists_filters_and_hands_over(executor: Executor, folders: Path):
    (folders / "kitchen").mkdir()
    saved(folders, "kitchen/cup.safetensors", thumbnail=IMAGE[0], words={"my-cup": "cup"})
    saved(folders, "other.safetensors", base="another model", method="clic")
    (folders / "broken.safetensors").write_bytes(b"nothing")
    folder_paths.filename_list_cache.clear()
    result = bank(executor)
    assert result.error == ""
    assert result.values["concept"].words == {"my-cup": "cup"}
    lines = result.values["list"].splitlines()
    assert lines[0].startswith("1  kitchen/cup.safetensors: <my-cup>, test, ")
    assert lines[1].startswith("2  other.safetensors: <my-cup>, clic, ")
    assert lines[2].startswith("not readable: ")
    assert result.values["sheet"].ndim == 4
    assert bank(executor, pick=2).values["concept"].method == "clic"
    assert bank(executor, filter="CLIC other").values["concept"].method == "clic"
    assert len(bank(executor, folder="kitchen").values["list"].splitlines()) == 1
    assert "other" not in bank(executor, **MODEL).values["list"]


def test_a_bank_says_when_there_is_nothing(executor: Executor, folders: Path):
    assert "No concept in models/concepts matches" in bank(executor).error
    saved(folders, "one.safetensors")
    assert "a number from 1 to 1" in bank(executor, pick=2).error


# Segment by Text


def segment(executor: Executor, **inputs: Any) -> Result:
    every = {
        "image": given("image"), "words": "cat", "detector": "dino", "segmenter": "sam",
        "threshold": 0.0, "take": "best", "places": "", **inputs,
    }  # fmt: skip
    wanted = {"masks": ["1", 0], "preview": ["1", 1]}
    return executor.run({"1": node("SegmentByText", **every)}, {"image": IMAGE}, **wanted)


def test_points_and_boxes_are_cut_by_a_local_sam(
    executor: Executor, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """A tiny SAM of transformers' own class; the whole way with a detector is in tests/unit."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "mlp_dim": 16,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "window_size": 2,
            "global_attn_indexes": [0], "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    monkeypatch.setattr(folder_paths, "models_dir", str(folders))
    with torch.inference_mode(False):
        transformers.SamModel(config).save_pretrained(folders / "sams" / "sam")
    module = pack("nodes.segment")
    assert module.found_in("sams") == ["sam"]
    place = "box 4 4 40 40\n30 30; not 2 2"
    masks, names = module.segmented(IMAGE, "", "dino", "sam", module.SegmentationConfig(), place)
    assert masks.shape == (2, SIDE, SIDE)
    assert names == ["place 1", "place 2"]
    assert module.preview_of(IMAGE[0], masks, names).ndim == 3
    with pytest.raises(pack("errors").ModelError, match="There is no 'dino' in models/grounding"):
        module.segmented(IMAGE, "cat", "dino", "sam", module.SegmentationConfig(), "")


def test_models_that_are_not_there_say_where_they_go(executor: Executor):
    options = {"detector": "(none found)", "segmenter": "(none found)"}
    result = segment(executor, **options)
    assert result.kind == "ModelError"
    assert "grounding-dino-base, and press R" in result.error
    assert "(none found)" in segment(executor, places="box 1 1 9 9", **options).error
    assert "words" in segment(executor, words=" ", **options).error
