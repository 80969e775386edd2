"""ConceptLab's nodes through ComfyUI's own executor, on tiny models of the real classes."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from executor import Executor, Result, given, node, pack_nodes
from tiny_models import Graph, assert_same_state, graph_of, state_of

from conceptloom.concepts.lora_export import export_embeddings

sys.path.append(str(Path(__file__).parents[1]))

pytest.importorskip("diffusers")

from unit.vision.tiny_files import save_blip2, save_decoder_22, save_prior

MODEL = {"model": given("model"), "clip": given("clip"), "vae": given("vae")}
RUN = {
    "name": "test-lab",
    "steps": 4,
    "learning_rate": 0.01,
    "look_every": 2,
    "checkpoint": 0,
    "seed": 0,
    "initialiser": "mean",
    "prior_steps": 2,
    "prior_guidance": 4.0,
    "checkpointing": True,
    "templates": "a photo of a {concept}",
    "gallery": "a photo of a {concept}",
    "gallery_seed": 1,
    "save_every": 1,
}
CLAMPS = {"positive_ceiling": 0.28, "negative_floor": 0.2, "positive_weight": 1.0}
TRAINER = {
    **RUN,
    **CLAMPS,
    "handle": "my-pet",
    "category": "pet",
    "negatives": "",
    "object_or_style": "object",
    "locked": "",
    "forbidden": "",
    "question": "",
    "gradual": False,
    "most_negatives": 0,
    "keep_duplicates": False,
    "early_stop": 0,
    "initialiser_word": "",
}
OUTPUTS = ["concept", "samples", "timeline", "similar", "loss", "map", "told"]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor) -> Path:
    known = dict(folder_paths.folder_names_and_paths)
    for kind in ("diffusion_priors", "vqa", "concepts", "loras", "embeddings"):
        place = tmp_path / "models" / kind
        place.mkdir(parents=True)
        monkeypatch.setitem(known, kind, ([str(place)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    folder_paths.filename_list_cache.clear()
    with torch.inference_mode(False):
        save_prior(tmp_path / "models" / "diffusion_priors" / "prior")
        save_decoder_22(tmp_path / "models" / "diffusion_priors" / "decoder")
        save_blip2(tmp_path / "models" / "vqa" / "blip2")
    return tmp_path


@pytest.fixture(scope="module")
def executor() -> Executor:
    return Executor()


def loader(prior: str = "prior", decoder: str = "decoder", **more: Any) -> dict[str, Any]:
    sizes = {"steps": 2, "cfg": 4.0, "size": 64, "precision": "half"}
    return node("LoadDiffusionPrior", prior=prior, decoder=decoder, **{**sizes, **more})


def blip2() -> dict[str, Any]:
    return node("LoadBlip2", model_folder="blip2", precision="half")


def trainer(**inputs: Any) -> dict[str, Any]:
    links = {"prior": ["1", 0]}
    return node("AdaptiveNegativesTrainer", **links, **{**TRAINER, **inputs})


def outputs_of(place: str, *, asks: bool = False) -> dict[str, Any]:
    names = [*OUTPUTS[:-1], "negatives", "told"] if asks else OUTPUTS
    return {name: [place, i] for i, name in enumerate(names)}


def train(executor: Executor, *, asks: bool = True, **inputs: Any) -> Result:
    graph = {"1": loader(), "2": blip2(), "3": trainer(**inputs)}
    if asks:
        graph["3"]["inputs"]["vqa"] = ["2", 0]
    return executor.run(graph, {}, **outputs_of("3", asks=True))


def test_it_invents_asks_and_saves(executor: Executor, folders: Path):
    result = train(executor)
    assert result.error == ""
    concept = result.values["concept"]
    assert concept.names == ["my-pet"]
    assert concept.handles["my-pet"]["clip_l"].shape == (1, 16)
    assert result.values["samples"].shape == (1, 64, 64, 3)
    for name in ("timeline", "similar", "loss"):
        assert result.values[name].ndim == 4
    assert "Checkpoints: 0, 2, 4" in result.values["told"]
    assert len(list((folders / "output").rglob("test-lab-*.safetensors"))) == 1


def test_another_checkpoint_needs_no_learning(executor: Executor):
    last = train(executor, seed=7).values["concept"]
    result = train(executor, seed=7, checkpoint=2)
    assert result.error == ""
    early = result.values["concept"]
    assert early.recipe["checkpoint"] == 2
    assert not torch.equal(early.handles["my-pet"]["clip_l"], last.handles["my-pet"]["clip_l"])
    assert "0, 2, 4" in train(executor, seed=7, checkpoint=3).error


def test_a_concept_is_drawn_and_given_to_unclip(executor: Executor):
    graph = {
        "1": loader(),
        "2": trainer(steps=1),
        "3": node(
            "GenerateWithPrior",
            prior=["1", 0],
            concept=["2", 0],
            prompt="a photo of a <my-pet>",
            seed=3,
            count=2,
            prior_steps=2,
            prior_guidance=4.0,
        ),
        "4": {
            "class_type": "unCLIPConditioning",
            "inputs": {
                "conditioning": given("conditioning"),
                "clip_vision_output": ["3", 1],
                "strength": 1.0,
                "noise_augmentation": 0.0,
            },
        },
    }
    conditioning = [[torch.zeros(1, 77, 8), {}]]
    result = executor.run(
        graph, {"conditioning": conditioning}, images=["3", 0], vision=["3", 1], unclip=["4", 0]
    )
    assert result.error == ""
    assert result.values["images"].shape == (2, 64, 64, 3)
    assert result.values["vision"].image_embeds.shape == (2, 16)
    assert result.values["unclip"][0][1]["unclip_conditioning"][0]["strength"] == 1.0


def test_cancelling_is_heard_between_two_embeddings(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
):
    module = sys.modules[pack_nodes()["ConceptLoomGenerateWithPrior"].__module__]
    asked: list[int] = []

    def imagine(*_: Any) -> torch.Tensor:
        asked.append(1)
        comfy.model_management.interrupt_current_processing()
        return torch.zeros(4)

    prior = SimpleNamespace(space=SimpleNamespace(imagine=imagine), image_generator=None)
    wish = module.PriorRequest(prior, "a cat", {}, range(3), None)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        wish.imagined(module.NodeProgress())
    assert len(asked) == 1


def test_words_are_mixed_by_weight(executor: Executor):
    inputs = {**RUN, "handle": "my-mix", "words": "cat: 3\ndog", "initialiser_word": ""}
    inputs["positive_ceiling"] = 0.5
    graph = {"1": loader(), "2": node("ConceptMixing", prior=["1", 0], **inputs)}
    result = executor.run(graph, {}, **outputs_of("2"))
    assert result.error == ""
    recipe = result.values["concept"].recipe
    assert recipe["positives"] == ["cat", "dog"]
    assert recipe["weights"] == [3.0, 1.0]
    assert recipe["positive_ceiling"] == 0.5
    graph["2"]["inputs"]["positive_ceiling"] = -0.9
    report = executor.run(graph, {}, **outputs_of("2")).values["told"]
    assert "cat in 100% of the steps" in report
    for wrong in ("cat: much", "cat: nan"):
        graph["2"]["inputs"]["words"] = wrong
        assert "a number, such as" in executor.run(graph, {}, **outputs_of("2")).error


def test_generations_are_bred_from_concepts_and_photographs(executor: Executor):
    child = {
        **RUN,
        "handle": "my-child",
        "first_word": "pet",
        "weights": "3, 1",
        "steps": 2,
        "concepts__concept0": ["2", 0],
        "images__image0": given("photos"),
    }
    alike = {"weights": "1, 1", "concepts__concept0": ["3", 0]}
    grandchild = {**child, "handle": "my-grandchild", **alike}
    graph = {
        "1": loader(),
        "2": trainer(steps=1),
        "3": node("EvolveConcepts", prior=["1", 0], **child),
        "4": node("EvolveConcepts", prior=["1", 0], **grandchild),
    }
    photos = torch.rand(3, 20, 20, 3, generator=torch.Generator().manual_seed(0))
    result = executor.run(graph, {"photos": photos}, **outputs_of("4"))
    assert result.error == ""
    lineage = result.values["concept"].recipe["lineage"]
    assert lineage["generation"] == 2
    assert lineage["parents"] == {"my-child": 0.5, "photo-1": 0.5}
    assert lineage["ancestors"]["my-child"]["parents"] == {"my-pet": 0.75, "photo-1": 0.25}
    assert "my-child (generation 1)" in result.values["told"]


def text_space(executor: Executor, models: Graph, **inputs: Any) -> Result:
    graph = {
        "1": loader("none (text space)", "none", size=32, **MODEL),
        "2": trainer(**{"negatives": "dog", **inputs}),
        "3": node("ApplyConcept", **{k: MODEL[k] for k in ("model", "clip")},
                  concept=["2", 0], strength=1.0),
    }  # fmt: skip
    values = {"model": models.model, "clip": models.clip, "vae": models.vae}
    return executor.run(graph, values, **outputs_of("2", asks=True), clip=["3", 1])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_without_a_prior_the_base_model_learns_the_name_and_stays_as_it_is(
    executor: Executor, family: str
):
    models = graph_of(family)
    before = state_of(models.model), state_of(models.clip.patcher)
    result = text_space(executor, models)
    assert result.error == ""
    assert result.values["negatives"] == "dog"
    assert any(
        isinstance(token, torch.Tensor)
        for token, _ in result.values["clip"].tokenize("a <my-pet>")["l"][0]
    )
    assert_same_state(models.model, before[0])
    assert_same_state(models.clip.patcher, before[1])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_name_of_the_text_space_is_a_stock_embedding_too(
    executor: Executor, family: str, tmp_path: Path
):
    models = graph_of(family)
    result = text_space(executor, models)
    concept, applied = result.values["concept"], result.values["clip"]
    export_embeddings(concept, tmp_path / "models" / "embeddings")
    stock = models.clip.clone()
    stock.tokenizer = deepcopy(stock.tokenizer)
    for part in concept.handles["my-pet"]:
        part_of = getattr(stock.tokenizer, part)
        part_of.embedding_directory = str(tmp_path / "models" / "embeddings")
    expected = applied.encode_from_tokens(applied.tokenize("a <my-pet> at home"))
    found = stock.encode_from_tokens(stock.tokenize("a embedding:my-pet at home"))
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_text_space_needs_a_base_model(executor: Executor):
    graph = {"1": loader("none (text space)", "none"), "2": trainer()}
    assert "connect MODEL" in executor.run(graph, {}, **outputs_of("2")).error


def test_cancelling_keeps_the_work_and_the_negatives(
    executor: Executor, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    update = comfy.utils.ProgressBar.update_absolute

    def watched(bar: Any, value: int, total: int | None = None, preview: Any = None) -> None:
        update(bar, value, total, preview)
        if (value, total) == (2, RUN["steps"]):
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", watched)
    stopped = train(executor, seed=5, name="stopped")
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    assert stopped.was_cancelled
    states = list((folders / "output").rglob("state-*.safetensors"))
    assert states
    resumed = train(executor, seed=5, name="stopped")
    whole = train(executor, seed=5, name="whole")
    assert resumed.error == whole.error == ""
    a, b = (made.values["concept"].handles["my-pet"]["clip_l"] for made in (resumed, whole))
    assert torch.equal(a, b)
    assert resumed.values["negatives"] == whole.values["negatives"]


def test_widths_that_do_not_fit_are_reported(executor: Executor):
    graph = {
        "1": loader(),
        "2": loader("none (text space)", "none", size=32, **MODEL),
        "3": node("AdaptiveNegativesTrainer", prior=["2", 0], **{**TRAINER, "steps": 1}),
        "4": node(
            "GenerateWithPrior",
            prior=["1", 0],
            concept=["3", 0],
            prompt="a <my-pet>",
            seed=0,
            count=1,
            prior_steps=2,
            prior_guidance=1.0,
        ),
    }
    models = graph_of("sd1")
    values = {"model": models.model, "clip": models.clip, "vae": models.vae}
    result = executor.run(graph, values, images=["4", 0])
    assert "16 wide" in result.error
    assert result.kind == "PromptError"
