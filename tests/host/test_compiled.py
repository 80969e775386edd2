"""A compiled model takes part in every edit, or says beforehand that it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.cli_args
import comfy.model_prefetch
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_torch_compile import TorchCompileModel
from test_edits import watched
from test_lag import lag, sample
from test_steering import Guide, steered
from tiny_models import Graph, left_behind

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.errors import MissedSitesError, ModelError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.uncompiled import as_written

Make = Callable[[Any], Any]  # MODEL -> MODEL


def by_node(model: Any) -> Any:
    """Core's node; the backend traces as every other does, and needs no C++ compiler."""
    return TorchCompileModel.execute(model, "eager").result[0]


def by_patch(model: Any) -> Any:
    """As packs do it that put a compiled UNet in the place of the other."""
    patched = model.clone()
    unet = as_written(model.model.diffusion_model)  # loaded once, the other stands in its place
    compiled = torch.compile(unet, backend="eager")
    patched.add_object_patch("diffusion_model", compiled)
    return patched


@pytest.fixture(autouse=True)
def no_graphs_left():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("compiled", [by_node, by_patch])
def test_lag_in_a_compiled_model_is_lag(sd1: Graph, compiled: Make):
    alone, clip = lag(sd1)
    expected, plain = sample(alone, clip), sample(sd1.model, clip)
    before = Graph(compiled(sd1.model), sd1.clip, sd1.vae)
    assert torch.equal(sample(lag(before)[0], clip), expected), "compiled in front of it"
    assert torch.equal(sample(compiled(alone), clip), expected), "compiled behind it"
    assert not torch.allclose(expected, plain, atol=1e-3)


def fused(model: Any) -> Any:
    return watched(model, factor=1.1)[0]


@pytest.mark.parametrize("compiled", [by_node, by_patch])
def test_every_edit_works_in_a_compiled_model(sd1: Graph, compiled: Make):
    expected = sample(fused(sd1.model), sd1.clip, "a red cat")
    assert torch.equal(sample(fused(compiled(sd1.model)), sd1.clip, "a red cat"), expected)


@pytest.mark.parametrize("compiled", [by_node, by_patch])
def test_guidance_gets_its_gradient_from_a_compiled_model(
    sd1: Graph, compiled: Make, monkeypatch: pytest.MonkeyPatch
):
    class Enough(Exception):
        pass

    def moved(*_: Any) -> Any:
        raise Enough  # what follows is a pass without an edit, which is compiled: minutes

    monkeypatch.setattr(Guide, "moved", moved)
    gradients: list[torch.Tensor] = []
    clip = lag(sd1)[1]  # it tells which tokens a prompt has
    for model in (sd1.model, compiled(sd1.model)):
        edited, guides = steered(Graph(model, sd1.clip, None))
        with pytest.raises(Enough):
            sample(edited, clip, "a red cat")
        gradients.append(guides[0].gradients[0][1])
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)


def test_maps_and_learning_see_a_compiled_model_that_is_loaded(sd1: Graph):
    def read(host: ComfyHost) -> torch.Tensor:
        prompt, capture = host.encode_prompt("a cat"), AttentionCapture(host.sites.transformers)
        host.predict(torch.ones(1, 4, 8, 8), torch.tensor([500]), [prompt], [capture])
        return capture.maps([TokenQuery(0, (2,), len(prompt.tokens))], (8, 8))

    expected = read(ComfyHost(sd1.model, sd1.clip))
    patched = by_patch(sd1.model)
    sample(lag(Graph(patched, sd1.clip, None))[0], lag(sd1)[1])
    assert hasattr(patched.model.diffusion_model, "_orig_mod"), "it is loaded"
    host = ComfyHost(patched, sd1.clip)
    assert torch.equal(read(host), expected)
    assert host.weight_names() == ComfyHost(sd1.model, sd1.clip).weight_names()


@pytest.mark.parametrize("compiled", [by_node, by_patch])
def test_an_older_torch_refuses_before_it_samples(
    sd1: Graph, compiled: Make, monkeypatch: pytest.MonkeyPatch
):
    model, clip = lag(sd1)
    expected = sample(model, clip)
    guided = compiled(steered(sd1)[0])
    monkeypatch.delattr(torch.compiler, "set_stance")
    assert torch.equal(sample(model, clip), expected)
    with pytest.raises(ModelError, match="is compiled"):
        lag(Graph(compiled(sd1.model), sd1.clip, None))
    for edited in (compiled(model), guided):
        with pytest.raises(ModelError, match="is compiled"):
            sample(edited, clip, "a <my-cat> cat")


def test_a_unet_that_is_replayed_is_noticed(sd1: Graph, monkeypatch: pytest.MonkeyPatch):
    """As with CUDA graphs: hooks run while it is recorded, and never again."""
    unet, outputs = sd1.model.model.diffusion_model, []
    written = unet._forward

    def replayed(*args: Any, **kwargs: Any) -> torch.Tensor:
        if not outputs:
            outputs.append(written(*args, **kwargs))
        return outputs[0]

    monkeypatch.setattr(unet, "_forward", replayed)
    with pytest.raises(MissedSitesError, match="did not call LagEdit"):
        sample(*lag(sd1))
    assert not left_behind(sd1.model.model)


def test_a_unet_that_asks_for_no_wrapper_is_noticed(sd1: Graph, monkeypatch: pytest.MonkeyPatch):
    """As where a pack runs an engine of its own in the UNet's place."""
    unet = sd1.model.model.diffusion_model
    monkeypatch.setattr(unet, "forward", lambda x, *_, **__: torch.zeros_like(x))
    with pytest.raises(MissedSitesError, match=r"conceptloom\.lag"):
        sample(*lag(sd1))
    with pytest.raises(MissedSitesError, match="test"):
        sample(steered(sd1)[0], lag(sd1)[1], "a red cat")


@pytest.mark.parametrize("is_first", [True, False])
def test_steps_that_a_cache_answers_are_no_fault(sd1: Graph, is_first: bool):
    def cached(model: Any) -> Any:
        return EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).result[0]

    masks: list[Any] = []
    start = Graph(cached(sd1.model) if is_first else sd1.model, sd1.clip, None)
    model, clip = lag(start, on_masks=lambda _, m, __: masks.append(m))
    sample(model if is_first else cached(model), clip, steps=6)
    assert 0 < len(masks) < 6 * 16, "the cache answered for some steps"


def test_the_hosts_own_compiler_rests_in_an_edited_pass(
    sd1: Graph, monkeypatch: pytest.MonkeyPatch
):
    """ComfyUI 0.38 and newer record a block's allocations, and may replay it as a CUDA graph."""
    pauses: list[int] = []

    @contextmanager
    def pause() -> Iterator[None]:
        pauses.append(1)
        yield
        pauses.append(-1)

    arguments, states = comfy.cli_args.args, []
    monkeypatch.setattr(arguments, "disable_comfy_compiler", False, raising=False)
    monkeypatch.setattr(comfy.model_prefetch, "pause_malloc_graph", pause, raising=False)
    model, clip = lag(sd1, on_masks=lambda *_: states.append(arguments.disable_comfy_compiler))
    sample(fused(model), clip)
    assert states
    assert all(states)
    assert arguments.disable_comfy_compiler is False
    assert pauses
    assert pauses == [1, -1] * (len(pauses) // 2), "never one inside of another"
