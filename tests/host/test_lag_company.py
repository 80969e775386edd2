"""LAG beside a ControlNet, Load LoRA, an image prompt, and samplers that go tile by tile."""

from __future__ import annotations

from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import folder_paths
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from nodes import ControlNetApplyAdvanced, KSampler, LoraLoader
from test_lag import PROMPT, concept_of, conditioning, lag, sample
from tiny_models import SD1_UNET, Graph, assert_same_state, random_state, state_of

from conceptloom.concepts.concept import Concept
from conceptloom.concepts.lora_export import export_lora
from conceptloom.methods.personalized_residuals import Localised
from conceptloom.nodes.guidance import guided, target_words
from conceptloom.nodes.lag import with_lag
from conceptloom.samplers.guidance import GuidanceConfig

SIZE = (8, 10)


def control_net() -> Any:
    """A random ControlNet of the tiny model's structure."""
    sizes = {k: v for k, v in SD1_UNET.items() if k not in ("out_channels", "transformer_depth")}
    network = comfy.cldm.cldm.ControlNet(
        **sizes,
        transformer_depth=list(SD1_UNET["transformer_depth"]),
        hint_channels=3,
        operations=comfy.ops.manual_cast,
    )
    network.load_state_dict(random_state(network, torch.Generator().manual_seed(9)))
    device = comfy.model_management.get_torch_device()
    return comfy.controlnet.ControlNet(network.eval(), load_device=device)


def controlled(model: Any, clip: Any, net: Any, strength: float = 1.0) -> torch.Tensor:
    hint = torch.rand(1, 64, 80, 3, generator=torch.Generator().manual_seed(2))
    prompts = conditioning(clip, PROMPT), conditioning(clip, "")
    positive, negative = ControlNetApplyAdvanced().apply_controlnet(
        *prompts, net, hint, strength, 0.0, 1.0
    )
    empty = {"samples": torch.zeros(1, 4, *SIZE)}
    return KSampler().sample(model, 5, 2, 4.0, "euler", "normal", positive, negative, empty, 1.0)[
        0
    ]["samples"]


def test_a_controlnet_steers_what_lag_draws(sd1: Graph):
    before, net = state_of(sd1.model), control_net()
    seen: list[torch.Tensor] = []
    model, clip = lag(sd1, on_masks=lambda _, masks, __: seen.append(masks))
    both = controlled(model, clip, net)
    assert len(seen) == 2 * 16, "every block of the UNet, both steps, and none of the ControlNet"
    assert not torch.allclose(both, sample(model, clip), atol=1e-3), "the ControlNet works"
    assert not torch.allclose(both, controlled(sd1.model, clip, net), atol=1e-3), "so does LAG"
    off, clip = lag(sd1, strength=0.0)
    assert torch.equal(controlled(off, clip, net), controlled(sd1.model, clip, net))
    assert torch.equal(controlled(model, clip, net, 0.0), sample(model, clip))
    assert_same_state(sd1.model, before)


@pytest.fixture
def lora(sd1: Graph, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Concept:
    """Another concept, as a file that core's Load LoRA finds under the name other.safetensors."""
    other = concept_of(sd1, "my-style", "style", 0.2)
    export_lora(other, tmp_path / "other.safetensors")
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"})
    )
    folder_paths.filename_list_cache.clear()
    return other


def test_load_lora_before_or_behind_lag_is_the_same(sd1: Graph, lora: Concept):
    def loaded(model: Any, strength: float = 1.0) -> Any:
        return LoraLoader().load_lora(model, sd1.clip, "other.safetensors", strength, 0.0)[0]

    model, clip = lag(sd1)
    behind = sample(loaded(model), clip)
    before, _ = lag(Graph(loaded(sd1.model), sd1.clip, sd1.vae), concept_of(sd1))
    torch.testing.assert_close(sample(before, clip), behind, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(behind, sample(model, clip), atol=1e-3), "the LoRA works"
    assert not torch.allclose(behind, sample(loaded(sd1.model), clip), atol=1e-3), "so does LAG"
    off, _ = lag(sd1, strength=0.0)
    assert torch.equal(sample(loaded(off), clip), sample(loaded(sd1.model), clip))


def with_image_prompt(model: Any, calls: list[Any]) -> Any:
    """What IPAdapter packs do: each block also attends to tokens of a picture."""

    def attend(q: Any, k: Any, v: Any, extra: dict[str, Any]) -> torch.Tensor:
        calls.append(extra["block"])
        generator = torch.Generator().manual_seed(len(extra["block"][0]))
        key, value = (torch.randn(len(k), 4, k.shape[-1], generator=generator) for _ in range(2))
        heads = extra["n_heads"]
        return optimized_attention(q, k, v, heads) + 0.5 * optimized_attention(q, key, value, heads)

    patched = model.clone()
    for place, numbers in (("input", (1, 2, 4, 5)), ("middle", (0,)), ("output", (3, 4, 5))):
        for number in numbers:
            patched.set_model_attn2_replace(attend, place, number)
    return patched


def test_an_image_prompt_goes_on_beside_lag(sd1: Graph):
    seen: list[torch.Tensor] = []
    calls: list[Any] = []
    given = [Localised(concept=concept_of(sd1))]
    model, clip = with_lag(sd1.model, sd1.clip, given, lambda _, masks, __: seen.append(masks))
    behind = sample(with_image_prompt(model, calls), clip)
    assert len(seen) == 2 * 16, "masks of every block, both steps"
    assert len(set(calls)) == 8, "every patched block"
    before, _ = with_lag(with_image_prompt(sd1.model, calls), sd1.clip, given)
    assert torch.equal(sample(before, clip), behind)
    assert not torch.allclose(behind, sample(model, clip), atol=1e-3), "the image prompt works"
    plain = sample(with_image_prompt(sd1.model, calls), clip)
    assert not torch.allclose(behind, plain, atol=1e-3), "so does LAG"
    off, _ = lag(sd1, strength=0.0)
    assert torch.equal(sample(with_image_prompt(off, calls), clip), plain)


def test_tokens_that_others_append_go_on_beside_lag(sd1: Graph):
    """What packs for other prompts do: each block attends to more keys than it was told."""

    def longer(q: Any, k: Any, v: Any, extra: dict[str, Any]) -> tuple[Any, Any, Any]:
        more = torch.randn(len(k), 4, k.shape[-1], generator=torch.Generator().manual_seed(3))
        return q, torch.cat([k, more], dim=1), torch.cat([v, more], dim=1)

    def appended(model: Any) -> Any:
        patched = model.clone()
        patched.set_model_attn2_patch(longer)
        return patched

    seen: list[torch.Tensor] = []
    model, clip = lag(sd1, on_masks=lambda _, masks, __: seen.append(masks))
    behind = sample(appended(model), clip)
    assert len(seen) == 2 * 16, "masks of every block, both steps"
    assert not torch.allclose(behind, sample(model, clip), atol=1e-3), "the tokens count"
    plain = sample(appended(sd1.model), clip)
    assert not torch.allclose(behind, plain, atol=1e-3), "so does LAG"


def test_every_tile_has_a_mask_of_its_own(sd1: Graph):
    """What packs for large pictures do: the model sees one half of the latent, then the other."""
    grids: list[tuple[int, ...]] = []

    def keep(site: Any, masks: torch.Tensor, info: Any) -> None:
        share = masks.flatten(2).mean(dim=2)
        assert (share - 0.5).abs().max() <= 1 / masks[0, 0].numel()
        grids.append((*info.latent_shape[-2:],))

    def tiles(apply: Any, given: dict[str, Any]) -> torch.Tensor:
        halves = given["input"].split(8, dim=-2)
        return torch.cat([apply(x, given["timestep"], **given["c"]) for x in halves], dim=-2)

    model, clip = lag(sd1, on_masks=keep)
    tiled = model.clone()
    tiled.set_model_unet_function_wrapper(tiles)
    drawn = sample(tiled, clip, size=(16, 10))
    assert drawn.shape == (1, 4, 16, 10)
    assert drawn.isfinite().all()
    assert set(grids) == {(8, 10)}
    plain = sd1.model.clone()
    plain.set_model_unet_function_wrapper(tiles)
    assert not torch.allclose(drawn, sample(plain, clip, size=(16, 10)), atol=1e-3)


def test_pictures_of_a_batch_have_masks_of_their_own(sd1: Graph):
    seen: list[torch.Tensor] = []
    model, clip = lag(sd1, on_masks=lambda _, masks, __: seen.append(masks))
    sample(model, clip, rows=3)
    assert all(masks.shape[0] == 3 for masks in seen)
    assert any(not torch.equal(masks[0], masks[1]) for masks in seen)


@pytest.mark.parametrize("guided_first", [False, True])
@pytest.mark.parametrize("soft", [{}, {"softness": 1.0, "smoothing": 1.0}])
def test_guidance_moves_what_lag_draws(sd1: Graph, guided_first: bool, soft: dict[str, float]):
    """Its pass is followed by autograd; LAG's tensors come from passes that are not."""
    seen: list[torch.Tensor] = []

    def guidance(model: Any) -> Any:
        words = target_words(sd1.model, sd1.clip, "photo", None)
        return guided(model, words, GuidanceConfig(eta=0.1, steps=2))

    def localised(model: Any) -> Any:
        graph = Graph(model, sd1.clip, sd1.vae)
        return lag(graph, on_masks=lambda _, masks, __: seen.append(masks), **soft)[0]

    plain, clip = lag(sd1, **soft)
    both = localised(guidance(sd1.model)) if guided_first else guidance(localised(sd1.model))
    found = sample(both, clip, sampler="heun", steps=3)
    assert found.isfinite().all()
    assert not torch.allclose(found, sample(plain, clip, sampler="heun", steps=3), atol=1e-2)
    assert seen
    assert not any(masks.requires_grad for masks in seen), "they would hold a whole pass each"
