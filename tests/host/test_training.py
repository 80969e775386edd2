"""Learning inside ComfyUI: gradients go where they should, and nothing stays behind."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from tiny_models import (
    Graph,
    assert_same_state,
    graph_of,
    left_behind,
    make_graph,
    state_of,
)

from conceptloom.errors import ModelError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.ports import FactoredEdit, UNetEdit
from conceptloom.training.adapters import Scope, Start, make_adapters

LATENT = torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(1))
TIMESTEPS = torch.tensor([40, 901])
KEY = "unet.output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def parameter(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(seed)
        return torch.nn.Parameter(0.05 * torch.randn(shape, generator=generator))


def handle_for(host: ComfyHost, vectors: int = 2) -> dict[str, torch.nn.Parameter]:
    return {name: parameter(vectors, width) for name, width in host.encoders.items()}


def loss_of(host: ComfyHost, handle: dict[str, torch.Tensor], edits=()) -> torch.Tensor:
    prompt = host.encode_prompt("a photo of <mug> on a mat", {"mug": handle})
    return host.predict(LATENT, TIMESTEPS, [prompt], edits).pow(2).mean()


def test_gradients_reach_handles_and_weight_edits_and_nothing_else(graph: Graph, host: ComfyHost):
    before = state_of(graph.model), state_of(graph.clip.patcher)
    handle = handle_for(host)
    name = next(n for n in host.weight_names() if n.endswith("attn2.to_k.weight"))
    delta = parameter(*host.weight(name).shape)
    text = next(n for n in host.weight_names() if n.endswith("layers.0.mlp.fc1.weight"))
    text_delta = parameter(*host.weight(text).shape, seed=2)
    edits = {name: lambda w: w + delta, text: lambda w: w + text_delta}
    with host.edited(edits, trainable=True):
        assert comfy.model_management.in_training
        assert not torch.is_inference_mode_enabled()
        loss_of(host, handle).backward()
        others = [*graph.model.model.parameters(), *graph.clip.patcher.model.parameters()]
        assert all(p.grad is None for p in others)
    assert not comfy.model_management.in_training
    assert torch.is_inference_mode_enabled()
    for learned in (delta, text_delta, *handle.values()):
        assert learned.grad is not None
        assert learned.grad.abs().max() > 0
    assert_same_state(graph.model, before[0])
    assert_same_state(graph.clip.patcher, before[1])


def test_gradients_agree_with_finite_differences(host: ComfyHost):
    handle = handle_for(host, vectors=1)
    generator = torch.Generator().manual_seed(2)  # whichever tests ran before
    direction = {k: torch.randn(v.shape, generator=generator) for k, v in handle.items()}
    with host.edited({}, trainable=True):
        loss_of(host, handle).backward()
        slope = sum((handle[k].grad * direction[k]).sum() for k in handle).item()
        ends = []
        for step in (-4e-3, 4e-3):
            with torch.no_grad():
                moved = {k: v + step * direction[k] for k, v in handle.items()}
                ends.append(loss_of(host, moved).item())
    assert slope == pytest.approx((ends[1] - ends[0]) / 8e-3, rel=2e-2, abs=1e-5)


def test_recomputing_activations_changes_neither_loss_nor_gradients(host: ComfyHost, graph: Graph):
    before = state_of(graph.model)
    handle, results = handle_for(host), []
    for checkpointing in (False, True):
        capture = Captured()
        with host.edited({}, trainable=True, checkpointing=checkpointing):
            loss = loss_of(host, handle, [capture])
            # A loss on captured activations, as attention losses are.
            loss = loss + sum(q.pow(2).mean() for q in capture.queries)
            results.append((loss.item(), torch.autograd.grad(loss, list(handle.values()))))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for plain, recomputed in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-4, atol=1e-7)
    assert_same_state(graph.model, before)


class Captured(UNetEdit):
    def __init__(self) -> None:
        self.queries: list[torch.Tensor] = []

    def wanted_attentions(self, sites):
        return [site for site in sites.cross_attentions if site.downsample == 4]

    def attention(self, call) -> None:
        self.queries.append(call.query)


def without_backward(function: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Another pack's attention, as its quantised kernels are: no gradient comes through."""
    return function(*(a.detach() if isinstance(a, torch.Tensor) else a for a in args), **kwargs)


def test_learning_takes_its_own_attention_and_gives_another_packs_back(sd1: Graph):
    plain = ComfyHost(sd1.model, sd1.clip)
    model = sd1.model.clone()
    options = model.model_options["transformer_options"]
    options["optimized_attention_override"] = without_backward
    host, gradients = ComfyHost(model, sd1.clip), []
    for one in (plain, host):
        handle = handle_for(one)
        with one.edited({}, trainable=True):
            loss_of(one, handle).backward()
        gradients.append(handle["clip_l"].grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0])
    assert options["optimized_attention_override"] is without_backward


def test_gradient_reaches_the_latent(host: ComfyHost):
    prompt = host.encode_prompt("a cat")  # an inference tensor, as nodes pass them
    with host.edited({}, trainable=True):
        latent = LATENT.clone().requires_grad_()
        host.predict(latent, TIMESTEPS, [prompt]).sum().backward()
    assert latent.grad is not None
    assert latent.grad.abs().min() > 0


def test_sampling_code_may_use_what_training_made(host: ComfyHost):
    handle = handle_for(host)
    with host.edited({}, trainable=True), torch.no_grad():
        inside = loss_of(host, handle)
    assert inside.item() == pytest.approx(loss_of(host, handle).item(), rel=1e-4)


@pytest.mark.parametrize("how", [RuntimeError, KeyboardInterrupt, "interrupt"])
def test_a_crash_or_cancel_leaves_everything_as_it_was(sd1: Graph, how):
    error = comfy.model_management.InterruptProcessingException if how == "interrupt" else how
    host = ComfyHost(sd1.model, sd1.clip, sd1.vae)
    prompt = host.encode_prompt("a cat")
    expected = host.predict(LATENT, TIMESTEPS, [prompt])
    before = state_of(sd1.model), state_of(sd1.clip.patcher)

    class Crash(UNetEdit):
        def wanted_layers(self, sites):
            return [s.layer for s in sites.features if s.block.number == 5]

        def layer(self, site, inputs, output, info):
            raise error

    delta = parameter(*host.weight(KEY).shape)
    with (
        pytest.raises(error),
        host.edited({KEY: lambda w: w + delta}, trainable=True, checkpointing=True),
    ):
        loss_of(host, handle_for(host), [Crash()])
    assert not comfy.model_management.in_training
    assert_same_state(sd1.model, before[0])
    assert_same_state(sd1.clip.patcher, before[1])
    assert torch.equal(host.predict(LATENT, TIMESTEPS, [prompt]), expected)


def is_felt(host: ComfyHost, name: str) -> bool:
    """Whether a weight reaches the prediction at all."""
    if name.endswith("k_proj.bias"):
        return False  # the same on every logit of a row: the softmax takes it out
    if name.startswith("clip_l.") and "clip_g" in host.encoders:
        return "layers.2." not in name and "final_layer_norm" not in name  # last but one of 3
    return not (name.startswith("clip_h.") and "layers.2." in name)


def test_every_weight_can_be_edited(host: ComfyHost):
    """Each name is where its edit acts: one small change at a time moves the prediction."""
    prompt_text = "a photo of a cat"
    plain = host.predict(LATENT, TIMESTEPS, [host.encode_prompt(prompt_text)])
    names = host.weight_names()
    assert len(names) == len(set(names))
    picked = names[:: max(1, len(names) // 25)] + [
        n for n in names if "position_embedding" in n or "token_embedding" in n or "projection" in n
    ]
    for name in picked:
        seen = []

        def edit(weight: torch.Tensor, seen: list = seen) -> torch.Tensor:
            seen.append(weight.shape)
            return weight + torch.linspace(-1, 1, weight.numel()).reshape(weight.shape)

        with host.edited({name: edit}, trainable=False):
            changed = host.predict(LATENT, TIMESTEPS, [host.encode_prompt(prompt_text)])
        assert seen == [host.weight(name).shape], f"{name}: called {len(seen)} times"
        assert torch.equal(changed, plain) != is_felt(host, name), name


def test_untrained_edits_compose_and_leave_no_trace(sd1: Graph):
    host = ComfyHost(sd1.model, sd1.clip)
    prompt = host.encode_prompt("a cat")
    plain = host.predict(LATENT, TIMESTEPS, [prompt])
    before = state_of(sd1.model)
    with host.edited({KEY: lambda w: w * 2}, trainable=False):
        once = host.predict(LATENT, TIMESTEPS, [prompt])
        with host.edited({KEY: lambda w: w / 2}, trainable=False):
            torch.testing.assert_close(host.predict(LATENT, TIMESTEPS, [prompt]), plain)
        assert torch.equal(host.predict(LATENT, TIMESTEPS, [prompt]), once)
    assert not torch.allclose(once, plain, atol=1e-4)
    assert torch.equal(host.predict(LATENT, TIMESTEPS, [prompt]), plain)
    assert_same_state(sd1.model, before)


def test_trained_edits_see_other_packs_loras(sd1: Graph):
    model = sd1.model.clone()
    host = ComfyHost(sd1.model, sd1.clip)
    original = host.weight(KEY).clone()
    model.add_patches({KEY.replace("unet", "diffusion_model", 1): ("diff", (original,))})
    seen = []
    patched = ComfyHost(model, sd1.clip)
    with patched.edited({KEY: lambda w: seen.append(w.clone()) or w}, trainable=True):
        loss_of(patched, handle_for(patched))
    torch.testing.assert_close(seen[0], 2 * original)
    assert torch.equal(host.weight(KEY), original)


def test_half_precision_models_learn_in_float32(sd1: Graph):
    graph = make_graph("sd1", dtype=torch.bfloat16)
    host = ComfyHost(graph.model, graph.clip)
    before = state_of(graph.model)
    delta, handle = parameter(*host.weight(KEY).shape), handle_for(host)
    with host.edited({KEY: lambda w: w + delta}, trainable=True):
        loss_of(host, handle).backward()
    assert delta.grad is not None
    assert delta.grad.dtype == torch.float32
    assert delta.grad.abs().max() > 0
    assert_same_state(graph.model, before)


def test_gradient_through_weighted_prompts(sd1: Graph):
    host, handle = ComfyHost(sd1.model, sd1.clip), None
    handle = handle_for(host)
    with host.edited({}, trainable=True):
        prompt = host.encode_prompt("a (<mug>:1.4) and (a cat:0.6)", {"mug": handle})
        host.predict(LATENT, TIMESTEPS, [prompt]).sum().backward()
    assert handle["clip_l"].grad.abs().max() > 0


def test_layers_that_the_host_loads_without_wrappers_learn_too():
    """Dynamic VRAM forgets the wrappers of small layers when it loads them."""

    class Forgetful(ModelPatcher):
        def load(self, *args, **kwargs) -> None:
            super().load(*args, **kwargs)
            for module in self.model.modules():
                if getattr(module, "weight_function", None) and module.weight.numel() < 4096:
                    module.weight_function, module.bias_function = [], []
                    module.comfy_cast_weights = True

    graph = make_graph("sd1")  # of its own: the host could not follow this patcher to another
    base = graph.model.model
    graph.model = Forgetful(base, graph.model.load_device, graph.model.offload_device)
    host = ComfyHost(graph.model, graph.clip)
    name = "unet.output_blocks.4.1.norm.bias"
    delta = parameter(*host.weight(name).shape)
    with host.edited({name: lambda w: w + delta}, trainable=True):
        loss_of(host, handle_for(host)).backward()
    assert delta.grad is not None
    assert delta.grad.abs().max() > 0
    assert left_behind(base) == []


def test_wrappers_that_the_host_refuses_leave_nothing_behind(sd1: Graph, monkeypatch):
    def refuse(patcher, name, function):
        raise RuntimeError("no wrapper today")

    host = ComfyHost(sd1.model, sd1.clip)
    edits = make_adapters(host, Scope.LOW_RANK, rank=2).edits()
    monkeypatch.setattr(ModelPatcher, "add_weight_wrapper", refuse)
    with pytest.raises(RuntimeError, match="today"), host.edited(edits, trainable=True):
        raise AssertionError
    assert left_behind(sd1.model.model) == []
    assert left_behind(sd1.clip.cond_stage_model) == []


def test_unknown_names_are_refused():
    graph = graph_of("sd1")
    host = ComfyHost(graph.model, graph.clip)
    with (
        pytest.raises(ModelError, match=r"unet\.nowhere"),
        host.edited({"unet.nowhere": lambda w: w}, trainable=False),
    ):
        pass


def test_factored_edits_learn_what_their_sum_learns(graph: Graph, host: ComfyHost) -> None:
    """Low-rank factors learn the same, whether they are summed with the weight or applied apart."""
    before = state_of(graph.model), state_of(graph.clip.patcher)
    handle = handle_for(host)
    with torch.inference_mode(False):
        adapters = make_adapters(host, Scope.LOW_RANK, rank=3, start=Start.BOTH_RANDOM)
    edits = adapters.edits()
    assert all(isinstance(edit, FactoredEdit) for edit in edits.values())
    summed = {name: edit.weight for name, edit in edits.items()}

    def gradients(edits, checkpointing=False) -> dict[str, torch.Tensor]:
        for parameter in adapters.parameters():
            parameter.grad = None
        with host.edited(edits, trainable=True, checkpointing=checkpointing):
            loss_of(host, handle).backward()
        return {name: p.grad for name, p in adapters.named().items()}

    wanted = gradients(summed)
    for checkpointing in (False, True):
        found = gradients(edits, checkpointing)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-6)
    assert_same_state(graph.model, before[0])
