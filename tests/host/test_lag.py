"""LAG under the host's own samplers: exact where it should be, chained, and never in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import pytest
import torch
from nodes import KSampler
from tiny_models import Graph, assert_same_state, graph_of, state_of

from conceptloom.attention.lag import LagEdit
from conceptloom.attention.lag_config import LagConfig, Unconditional
from conceptloom.attention.lag_maps import LagMaps
from conceptloom.concepts.concept import Concept, LowRank
from conceptloom.concepts.lora_export import export_lora
from conceptloom.errors import BaseMismatchError, ConceptLoomError, PromptError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.methods.personalized_residuals import Localised, lag_concept
from conceptloom.nodes.lag import with_lag
from conceptloom.nodes.shared import applied

PROMPT = "a photo of a <my-cat> cat"


def concept_of(graph: Graph, name: str = "my-cat", word: str = "cat", size: float = 0.3) -> Concept:
    host = ComfyHost(graph.model, graph.clip)
    generator = torch.Generator().manual_seed(len(name) + len(word))

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Concept(
        handles={name: {e: random(2, width) for e, width in host.encoders.items()}},
        weights={
            f"unet.{site.name}.proj_out.weight": LowRank(
                size * random(site.width, 2), random(2, site.width), 0.5
            )
            for site in host.sites.transformers
        },
        base=host.fingerprint,
        method="personalized_residuals",
        recipe={"class_word": word},
        prompts=(f"a photo of a <{name}> {word}",),
    )


def conditioning(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(
    model: Any, clip: Any, text: str = PROMPT, *, negative: str = "", steps: int = 2,
    cfg: float = 4.0, rows: int = 1, size: tuple[int, int] = (8, 10), sampler: str = "euler",
) -> torch.Tensor:  # fmt: skip
    empty = {"samples": torch.zeros(rows, 4, *size)}
    prompts = conditioning(clip, text), conditioning(clip, negative)
    return KSampler().sample(model, 5, steps, cfg, sampler, "normal", *prompts, empty, 1.0)[0][
        "samples"
    ]


def lag(graph: Graph, concept: Concept | None = None, on_masks: Any = None, **config: Any) -> Any:
    given = Localised(concept=concept or concept_of(graph), config=LagConfig(**config))
    return with_lag(graph.model, graph.clip, [given], on_masks)


def test_no_strength_and_no_residual_are_the_base_model_bit_for_bit(graph: Graph):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    model, clip = lag(graph, strength=0.0)
    plain = sample(graph.model, clip)
    assert torch.equal(sample(model, clip), plain)
    assert torch.equal(sample(*lag(graph, concept_of(graph, size=0.0))), plain)
    assert not torch.allclose(sample(*lag(graph)), plain, atol=1e-3)
    assert torch.equal(sample(graph.model, clip), plain)
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_a_mask_of_ones_equals_the_concept_in_the_weights(graph: Graph, host: ComfyHost):
    concept = concept_of(graph)
    merged = ComfyHost(*applied(graph.model, graph.clip, concept, 1.0))
    latent, at = torch.randn(1, 4, 8, 10, generator=torch.Generator().manual_seed(1)), [500]
    prompt = host.encode_prompt(PROMPT, concept.handles)
    expected = merged.predict(latent, torch.tensor(at), [prompt])
    for config in (LagConfig(quantile=0.0), LagConfig(localised=False)):
        edit = LagEdit([lag_concept(host, Localised(concept=concept, config=config))])
        found = host.predict(latent, torch.tensor(at), [prompt], [edit])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    plain_lora = sample(*applied(graph.model, graph.clip, concept, 1.0))
    torch.testing.assert_close(
        sample(*lag(graph, concept, localised=False)), plain_lora, atol=1e-3, rtol=1e-3
    )


def test_the_exported_lora_in_load_lora_is_lag_off(graph: Graph, tmp_path: Path):
    concept = concept_of(graph)
    export_lora(concept, tmp_path / "cat.safetensors")
    lora = comfy.utils.load_torch_file(str(tmp_path / "cat.safetensors"), safe_load=True)
    model, _ = comfy.sd.load_lora_for_models(graph.model, None, lora, 1.0, 0.0)
    off, clip = lag(graph, concept, localised=False)
    torch.testing.assert_close(sample(model, clip), sample(off, clip), atol=1e-3, rtol=1e-3)


def test_half_of_every_map_is_the_concepts(graph: Graph):
    maps, seen = LagMaps(), []

    def keep(site: Any, masks: torch.Tensor, info: Any) -> None:
        seen.append(masks)
        maps(site, masks, info)

    sample(*lag(graph, on_masks=keep), rows=2)
    n_sites = len(ComfyHost(graph.model, graph.clip).sites.transformers)
    assert len(seen) == 2 * n_sites, "every block, both steps"
    for masks in seen:
        assert masks.shape[:2] == (2, 1)
        share = masks.flatten(2).mean(dim=2)
        assert (share - 0.5).abs().max() <= 1 / masks[0, 0].numel()
    assert maps.averaged((8, 10)).shape == (2, 1, 8, 10)


def test_both_prompts_in_one_call_and_apart(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    pictures, orders = [], []
    for memory in (0.0, 1e30):  # what one pass is said to need decides how many rows fit
        monkeypatch.setattr(type(graph.model.model), "memory_required", lambda *a, m=memory, **k: m)
        rows: list[Any] = []
        model, clip = lag(graph, on_masks=lambda s, m, info, r=rows: r.append(info.conditional))
        pictures.append(sample(model, clip, negative="dull, " * 40, rows=2))
        orders.append(set(rows))
    torch.testing.assert_close(*pictures, rtol=1e-3, atol=1e-3)
    assert orders == [{(False, False, True, True)}, {(True, True)}]


def test_the_negative_pass_can_do_without_or_take_all(sd1: Graph):
    drawn = [sample(*lag(sd1, unconditional=choice)) for choice in Unconditional]
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            assert not torch.allclose(one, other, atol=1e-4)


def test_cfg_one_other_samplers_sizes_and_a_second_pass(sd1: Graph):
    model, clip = lag(sd1)
    assert sample(model, clip, cfg=1.0).isfinite().all()
    for sampler in ("dpmpp_2m", "heun", "ddim"):
        assert sample(model, clip, sampler=sampler, size=(12, 7)).isfinite().all()
    first = sample(model, clip)
    larger = torch.nn.functional.interpolate(first, scale_factor=2)
    prompts = conditioning(clip, PROMPT), conditioning(clip, "")
    second = KSampler().sample(
        model, 5, 2, 4.0, "euler", "normal", *prompts, {"samples": larger}, 0.5
    )[0]["samples"]
    assert second.shape == (1, 4, 16, 20)
    assert torch.equal(sample(model, clip), first), "nothing is carried over"


def test_two_applications_are_one_and_never_overlap(sd1: Graph):
    first, second = concept_of(sd1), concept_of(sd1, "my-dog", "dog")
    text = f"{PROMPT} and a <my-dog> dog"
    seen: list[torch.Tensor] = []
    both = [Localised(concept=first), Localised(concept=second)]
    at_once = with_lag(sd1.model, sd1.clip, both, lambda _, masks, __: seen.append(masks))
    model, clip = with_lag(*lag(sd1, first), [Localised(concept=second)])
    torch.testing.assert_close(sample(model, clip, text), sample(*at_once, text))
    assert all(float(masks.sum(dim=1).max()) <= 1 for masks in seen)
    assert not torch.allclose(sample(model, clip, text), sample(*lag(sd1, first), text), atol=1e-3)


def test_patches_of_others_go_on_beside_it(sd1: Graph):
    from comfy.ldm.modules.attention import optimized_attention

    model, clip = lag(sd1)
    expected, calls = sample(model, clip), []

    def attend(q: Any, k: Any, v: Any, extra: Any) -> Any:
        calls.append(1)
        return optimized_attention(q, k, v, extra["n_heads"])

    before = sd1.model.clone()
    before.set_model_attn2_replace(attend, "input", 1)
    given = [Localised(concept=concept_of(sd1))]
    under = sample(*with_lag(before, sd1.clip, given))
    after = model.clone()
    after.set_model_attn2_replace(attend, "input", 1)
    for drawn in (under, sample(after, clip)):
        torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-4)
    assert len(calls) >= 4
    lora = model.clone()
    lora.add_patches({"diffusion_model.out.2.bias": ("diff", (torch.ones(4),))})
    assert not torch.allclose(sample(lora, clip), expected, atol=1e-3)
    residual = model.clone()
    residual.set_model_output_block_patch(lambda h, skip, options: (h, skip * 0.5))
    plain = sd1.model.clone()
    plain.set_model_output_block_patch(lambda h, skip, options: (h, skip * 0.5))
    assert not torch.allclose(sample(residual, clip), sample(plain, clip), atol=1e-3)
    assert not torch.allclose(sample(residual, clip), expected, atol=1e-3)


def test_combined_and_concatenated_prompts(sd1: Graph):
    from nodes import ConditioningCombine, ConditioningConcat

    model, clip = lag(sd1)
    ours, other = conditioning(clip, PROMPT), conditioning(clip, "a red house")
    empty = {"samples": torch.zeros(1, 4, 8, 10)}

    def drawn(positive: Any) -> torch.Tensor:
        return KSampler().sample(model, 5, 2, 4.0, "euler", "normal", positive, other, empty, 1.0)[
            0
        ]["samples"]

    for positive in (
        ConditioningCombine().combine(ours, other)[0],
        ConditioningCombine().combine(other, ours)[0],
        ConditioningConcat().concat(ours, other)[0],
        ConditioningConcat().concat(other, ours)[0],
    ):
        assert drawn(positive).isfinite().all()


def test_prompts_that_lag_cannot_read_are_refused(sd1: Graph):
    model, clip = lag(sd1)
    with pytest.raises(PromptError, match="No prompt contains <my-cat>"):
        sample(model, clip, "a photo of a cat")
    with pytest.raises(PromptError, match="CLIP that knows the name"):
        sample(model, sd1.clip)
    alone = sample(model, clip, "a photo of <my-cat> there")
    given = Localised(concept=concept_of(sd1), class_word="")
    by_name = sample(*with_lag(sd1.model, sd1.clip, [given]), "a photo of <my-cat> there")
    assert torch.equal(alone, by_name), "without the class word the name localises"


def test_concepts_of_other_models_and_kinds_are_refused(sd1: Graph):
    foreign = concept_of(graph_of("sdxl"))
    with pytest.raises(BaseMismatchError):
        lag(sd1, foreign)
    with pytest.raises(ConceptLoomError, match="no concept to localise"):
        with_lag(sd1.model, sd1.clip, [])
