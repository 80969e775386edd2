"""A LoRA file as a concept, in every node that takes concepts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
from executor import Executor
from local_loras import LINEAR, Tensors, local, merged, random_lora
from safetensors.torch import save_file
from test_lag import concept_of, sample
from test_local_lora import drawn
from tiny_models import Graph, assert_same_state, graph_of, state_of

from conceptloom.attention.lag_config import LagConfig, Unconditional
from conceptloom.concepts.concept import Concept
from conceptloom.errors import ConfigError, PromptError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.methods.personalized_residuals import Localised
from conceptloom.nodes import import_lora
from conceptloom.nodes.lag import with_lag
from conceptloom.nodes.lag_maps import read_masks
from conceptloom.nodes.lag_sampler import LagSampler
from conceptloom.nodes.lora_files import SHIPPED, loaded_lora
from conceptloom.nodes.shared import applied

PROMPT = "a photo of a <miku> cat and a dog"


def stored(folders: Path, graph: Graph, seed: int = 0, name: str = "miku", **how: Any) -> Tensors:
    tensors = random_lora(graph, seed, **how)
    path = folders / "models" / "loras" / f"{name}.safetensors"
    save_file(tensors, path, {"modelspec.trigger_phrase": name})
    folder_paths.filename_list_cache.clear()
    return tensors


def imported(graph: Graph, name: str = "miku", words: str = "cat") -> Concept:
    return import_lora.imported(graph.model, graph.clip, f"{name}.safetensors", words, "", "", None)


def test_applied_it_is_load_lora(graph: Graph, folders: Path):
    tensors = stored(folders, graph)
    concept = imported(graph)
    model, clip = applied(graph.model, graph.clip, concept, 0.7)
    expected = drawn(*merged(graph, tensors, 0.7), text="a photo of a miku cat and a dog", steps=1)
    got = drawn(model, clip, text=PROMPT, steps=1)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)


def test_a_lokr_applies_as_core_applies_it(sd1: Graph, folders: Path):
    generator = torch.Generator().manual_seed(0)
    base = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    width = loaded_width(sd1)
    tensors = {
        f"{base}.lokr_w1": torch.randn(2, 2, generator=generator),
        f"{base}.lokr_w2": torch.randn(width // 2, width // 2, generator=generator),
    }
    save_file(tensors, folders / "models" / "loras" / "lokr.safetensors")
    folder_paths.filename_list_cache.clear()
    concept = imported(sd1, "lokr")
    expected = drawn(*merged(sd1, tensors), steps=1)
    assert not torch.allclose(expected, drawn(sd1.model, sd1.clip, steps=1), atol=1e-3)
    got = drawn(*applied(sd1.model, sd1.clip, concept, 1.0), steps=1)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def loaded_width(graph: Graph) -> int:
    block = graph.model.model.diffusion_model.middle_block[1]
    return block.transformer_blocks[0].attn1.to_q.weight.shape[0]


def test_localised_it_is_the_localised_lora(sd1: Graph, folders: Path):
    """The handle reads as the trigger, and the words behind it show the place."""
    stored(folders, sd1)
    before = state_of(sd1.model), state_of(sd1.clip.patcher)
    concept = imported(sd1)
    model, clip = with_lag(sd1.model, sd1.clip, [Localised(concept=concept)])
    got = drawn(model, clip, text=PROMPT)
    plain = drawn(sd1.model, clip, text=PROMPT)
    assert not torch.allclose(got, plain, atol=1e-3)
    off, knowing = with_lag(
        sd1.model, sd1.clip, [Localised(concept=concept, config=LagConfig(strength=0.0))]
    )
    assert torch.equal(drawn(off, knowing, text=PROMPT), plain)
    everywhere = with_lag(
        sd1.model, sd1.clip, [Localised(concept=concept, config=LagConfig(localised=False))]
    )
    torch.testing.assert_close(
        drawn(*everywhere, text=PROMPT),
        drawn(*applied(sd1.model, sd1.clip, concept, 1.0), text=PROMPT),
    )
    with pytest.raises(PromptError, match="<miku>"):
        drawn(model, clip, text="a photo of a cat")
    assert_same_state(sd1.model, before[0])
    assert_same_state(sd1.clip.patcher, before[1])


def test_residuals_keep_the_papers_lag(sd1: Graph, folders: Path):
    """Bit for bit, however the imported one is applied beside them with no strength."""
    stored(folders, sd1)
    text = "a photo of a <my-cat> cat and a <miku> dog"
    residual, lora = concept_of(sd1), imported(sd1, words="dog")
    none = Localised(concept=lora, config=LagConfig(strength=0.0))
    model, clip = with_lag(sd1.model, sd1.clip, [none, Localised(concept=residual)])
    alone, _ = with_lag(sd1.model, sd1.clip, [Localised(concept=residual)])
    assert torch.equal(sample(model, clip, text), sample(alone, clip, text))


def test_two_loras_with_the_same_words_are_told_apart_by_their_names(sd1: Graph, folders: Path):
    stored(folders, sd1, 1, "miku")
    stored(folders, sd1, 2, "reimu")
    concepts = [imported(sd1, name) for name in ("miku", "reimu")]
    text = "a photo of a <miku> cat and a <reimu> cat"
    one = with_lag(sd1.model, sd1.clip, [Localised(concept=c) for c in concepts])
    other = with_lag(sd1.model, sd1.clip, [Localised(concept=c) for c in reversed(concepts)])
    assert torch.equal(drawn(*one, text=text), drawn(*other, text=text))


def knobs(**changes: Any) -> dict[str, Any]:
    return {
        "strength": 1.0, "localised": True, "quantile": 0.5, "softness": 0.0, "smoothing": 0.0,
        "start": 0.0, "end": 1.0, "negative_rows": Unconditional.SAME.value,
        "use_class_word": True, "class_word": "", **changes,
    }  # fmt: skip


class Sampler(LagSampler):
    hidden = SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)


def test_the_lag_sampler_draws_it_beside_a_learned_concept(sd1: Graph, folders: Path):
    stored(folders, sd1)
    concepts = {"concept0": imported(sd1, words="dog"), "concept1": concept_of(sd1)}
    text = "a photo of a <my-cat> cat and a <miku> dog"
    latent = {"samples": torch.zeros(2, 4, 8, 10)}
    out = Sampler.execute(
        sd1.model, sd1.clip, concepts, text, "", latent, 0, 5, 4.0, "euler", "normal", 1.0,
        **knobs(),
    ).result  # fmt: skip
    assert out[0]["samples"].isfinite().all()
    assert out[1].shape == (4, 8, 10)
    assert 0.01 < float(out[1][0].mean()) < 0.99
    only = Sampler.execute(
        sd1.model, sd1.clip, {"concept0": concepts["concept0"]}, "a <miku> dog", "", latent, 0, 5,
        4.0, "euler", "normal", 1.0, **knobs(),
    ).result  # fmt: skip
    assert only[1].shape == (2, 8, 10)
    assert only[2].shape[-1] == 3


def test_lag_maps_show_where_it_would_be(sd1: Graph, folders: Path):
    stored(folders, sd1)
    asked = [Localised(concept=imported(sd1)), Localised(concept=concept_of(sd1, "my-dog", "dog"))]
    seen = read_masks(
        sd1.model, sd1.clip, sd1.vae, torch.rand(1, 64, 64, 3), asked,
        "a <miku> cat and a <my-dog> dog", 400,
    )  # fmt: skip
    masks, _ = seen.shown((64, 64), 1)
    assert masks.shape == (2, 64, 64)
    assert 0.01 < float(masks[0].mean()) < 0.99


def test_lag_maps_of_a_lora_that_is_not_located(sd1: Graph, folders: Path):
    """In the whole picture there is no region to show; a painted one is shown as it is painted."""
    stored(folders, sd1)
    left = torch.cat([torch.ones(8, 5), torch.zeros(8, 5)], dim=1)
    for mask, expected in ((None, 1.0), (left, 0.5)):
        config = LagConfig(localised=False)
        one = Localised(concept=imported(sd1), config=config, mask=mask)
        image = torch.rand(1, 64, 80, 3)
        seen = read_masks(sd1.model, sd1.clip, sd1.vae, image, [one], "a <miku> cat", 400)
        masks, _ = seen.shown((64, 80), 1)
        assert float(masks.mean()) == pytest.approx(expected)


def test_shapes_of_a_quantised_model_are_read_without_its_weights(
    sd1: Graph, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    tensors, copies = stored(folders, sd1), list[str]()
    weight = ComfyHost.weight

    def counted(host: ComfyHost, name: str) -> torch.Tensor:
        copies.append(name)
        return weight(host, name)

    monkeypatch.setattr(ComfyHost, "weight", counted)
    file = loaded_lora(sd1.model, sd1.clip, "miku.safetensors").file
    assert 3 * len(file.changes) == len(tensors)
    assert copies == []
    host = ComfyHost(sd1.model, sd1.clip)
    for name in host.weight_names():
        assert host.weight_shape(name) == tuple(weight(host, name).shape)


@pytest.mark.parametrize(
    "setting", [{"softness": 1.0}, {"smoothing": 1.0}, {"unconditional": Unconditional.BASE}]
)
def test_settings_of_residuals_alone_are_refused(
    sd1: Graph, folders: Path, setting: dict[str, Any]
):
    stored(folders, sd1)
    with pytest.raises(ConfigError, match="only concepts of Personalized Residuals"):
        with_lag(
            sd1.model, sd1.clip, [Localised(concept=imported(sd1), config=LagConfig(**setting))]
        )


def test_the_order_beside_apply_lag_does_not_matter(sd1: Graph):
    text = "a photo of a <my-cat> cat and a dog"
    asked = [Localised(concept=concept_of(sd1))]
    left = torch.cat([torch.ones(8, 5), torch.zeros(8, 5)], dim=1)
    for how in ({"mask": left}, {}):
        tensors = random_lora(sd1)
        model, clip = with_lag(sd1.model, sd1.clip, asked)
        behind = local(sd1, tensors, "dog", model=model, clip=clip, **how)
        before = with_lag(*local(sd1, tensors, "dog", **how), asked)
        assert torch.equal(drawn(*behind, text=text), drawn(*before, text=text))


def test_own_texts_are_added_once_however_nodes_are_chained():
    """SDXL's pooled text would move twice where a node between two loaders hid the first."""
    sdxl, which = graph_of("sdxl"), ("q_proj", "v_proj")
    cat, dog = (random_lora(sdxl, seed, unet=which) for seed in (1, 2))
    asked = [Localised(concept=concept_of(sdxl))]
    text = "a photo of a <my-cat> cat and a dog and a horse"
    one = local(sdxl, cat, "dog")
    one = with_lag(*one, asked)
    one = local(sdxl, dog, "horse", model=one[0], clip=one[1])
    other = local(sdxl, cat, "dog")
    other = local(sdxl, dog, "horse", model=other[0], clip=other[1])
    other = with_lag(*other, asked)
    pooled = [pair[1].encode_from_tokens(pair[1].tokenize(text), True)[1] for pair in (one, other)]
    assert torch.equal(*pooled)
    assert torch.equal(drawn(*one, text=text), drawn(*other, text=text))


def test_the_node_says_what_it_needs(sd1: Graph, folders: Path):
    stored(folders, sd1, unet=LINEAR)
    with pytest.raises(Exception, match="words"):
        imported(sd1, words="")
    assert loaded_lora(sd1.model, sd1.clip, "miku.safetensors").words.trigger == "miku"


def test_loras_of_the_workflows_are_listed_behind_the_users_own(executor: Executor):
    assert executor
    places = folder_paths.get_folder_paths("loras")
    assert Path(places[0]) == Path(folder_paths.models_dir) / "loras", "where new files are saved"
    assert str(SHIPPED) in [str(Path(place).resolve()) for place in places]
    folder_paths.filename_list_cache.clear()
    assert "rusty-tinyworld.safetensors" in folder_paths.get_filename_list("loras")
