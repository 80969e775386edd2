"""Z-Image and Krea 2 as base models in ComfyUI: what they predict, and where words stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_predict import host_denoised
from tiny_models import Graph
from tiny_single import diffusers_network, graph_of_single, single_graph, single_kind
from torch.utils._python_dispatch import TorchDispatchMode

from conceptloom.errors import ModelError, PromptError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.texts import telling_clip
from conceptloom.host.comfyui.tokens import TOKENS
from conceptloom.host.comfyui.weights import WrappedWeights, network_weights
from conceptloom.host.diffusers.single_stream import velocity
from conceptloom.host.families.registry import family_of
from conceptloom.host.noise import FlowPath
from conceptloom.host.ports import Words, find_run

PROMPT = "a photo of a red teapot, and a \u9f98 Teapots"


kind, graph = single_kind, single_graph


@pytest.fixture
def host(graph: Graph) -> ComfyHost:
    return ComfyHost(graph.model, graph.clip)


LATENT = torch.randn(2, 16, 10, 12, generator=torch.Generator().manual_seed(1))


def test_noise_path(kind: str, host: ComfyHost):
    assert isinstance(host.noise_path, FlowPath)
    expected = {"z_image": 3.0, "krea2": 2.718281828**1.15}[kind]
    assert host.noise_path.shift == pytest.approx(expected, rel=1e-5)
    assert host.latent_channels == 16
    assert host.fingerprint.startswith({"z_image": "z_image256", "krea2": "krea2128"}[kind])


def test_prediction_is_the_hosts(kind: str, graph: Graph, host: ComfyHost):
    prompts = ("a cat on a mat", "blurry, low quality, and a bad frame")
    conds = [graph.clip.encode_from_tokens_scheduled(graph.clip.tokenize(p)) for p in prompts]
    for t in (0.1, 0.55, 1.0):
        sigma = torch.full((2,), t)
        latent = LATENT[:, :, None] if kind == "krea2" else LATENT  # as its latents come
        theirs = host_denoised(graph, sigma, latent, conds)
        for text, denoised in zip(prompts, theirs, strict=True):
            output = host.predict(LATENT, sigma, [host.encode_prompt(text)])
            ours = host.noise_path.denoised(LATENT, output, sigma)
            torch.testing.assert_close(ours, denoised.reshape(ours.shape), rtol=1e-5, atol=1e-5)


def test_prediction_is_that_of_diffusers(kind: str, host: ComfyHost):
    prompt, t = host.encode_prompt(PROMPT), torch.tensor([0.9, 0.2])
    network = diffusers_network(kind)
    context = prompt.context.expand(2, -1, -1)
    theirs = velocity(family_of(network), network, LATENT, t, context)
    ours = host.predict(LATENT, t, [prompt])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_odd_latents(kind: str, host: ComfyHost):
    prompt, t, latent = host.encode_prompt("a cat"), torch.tensor([0.9]), LATENT[:1, :, :9, :11]
    network = diffusers_network(kind)
    theirs = velocity(family_of(network), network, latent, t, prompt.context)
    torch.testing.assert_close(host.predict(latent, t, [prompt]), theirs, rtol=1e-5, atol=1e-5)


def test_prompts_of_unlike_length_do_not_touch_each_other(host: ComfyHost):
    prompts = [host.encode_prompt(text) for text in ("a cat", "a much longer prompt of a dog")]
    t = torch.tensor([0.9, 0.2])
    together = host.predict(LATENT, t, prompts, conditional=[False, True])
    for row, prompt in enumerate(prompts):
        alone = host.predict(LATENT[row : row + 1], t[row : row + 1], [prompt])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_words_are_found(kind: str, host: ComfyHost):
    prompt = host.encode_prompt(PROMPT)
    first = {"z_image": 3, "krea2": 0}[kind]
    assert prompt.context.shape[1] == len(prompt.tokens) == len(prompt.content)
    assert prompt.content.index(True) == first
    assert sum(prompt.content) == len(prompt.content) - first - 5
    teapot = prompt.find(host.tokenize("teapot"))
    assert teapot == {"z_image": (8, 9), "krea2": (5, 6)}[kind]
    assert prompt.find(host.tokenize("red teapot")) == (teapot[0] - 1, *teapot)
    assert len(prompt.find(host.tokenize("\u9f98"))) == 3
    assert prompt.find(host.tokenize("color")) == ()  # of the system prompt


def test_conditionings_tell_their_words(graph: Graph):
    clip = telling_clip(graph.clip)
    ((context, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    assert len(extra[TOKENS]) == context.shape[1]
    assert find_run(extra[TOKENS], (Words("red teapot"),))
    ((plain, before),) = graph.clip.encode_from_tokens_scheduled(graph.clip.tokenize(PROMPT))
    assert torch.equal(plain, context)
    assert TOKENS not in before


def test_what_is_not_supported_is_refused_in_words(kind: str, graph: Graph, host: ComfyHost):
    other = graph_of_single({"z_image": "krea2", "krea2": "z_image"}[kind])
    with pytest.raises(ModelError, match="reads prompts with qwen3"):
        ComfyHost(graph.model, other.clip)
    with pytest.raises(PromptError, match=r"<mug> has no vectors for qwen3"):
        host.encode_prompt("a <mug>", {"mug": {}})


def test_weights_in_a_fused_layer_are_apart(graph: Graph, host: ComfyHost):
    names = [name for name in host.weight_names() if ".0.attention.to_" in name]
    if not names:
        return
    name = "transformer.layers.0.attention.to_k.weight"
    assert name in names
    whole = graph.model.model.diffusion_model.layers[0].attention.qkv.weight
    assert torch.equal(host.weight(name), whole[256:512])
    prompt, t = host.encode_prompt("a cat"), torch.tensor([0.5])
    base = host.predict(LATENT[:1], t, [prompt])
    with host.edited({name: lambda weight: weight + 0.5}, trainable=False):
        changed = host.predict(LATENT[:1], t, [prompt])
    with torch.no_grad():
        whole[256:512] += 0.5
    try:
        expected = host.predict(LATENT[:1], t, [prompt])
    finally:
        whole[256:512] -= 0.5
    assert (changed - base).abs().max() > 1e-3
    torch.testing.assert_close(changed, expected)


class Copies(TorchDispatchMode):
    """Counts new tensors as large as a fused weight."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.count, self._elements = 0, elements

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        is_new = func in (torch.ops.aten.clone.default, torch.ops.aten.cat.default)
        self.count += is_new and made.numel() == self._elements
        return made


class Plus:
    """A trainable edit of one weight."""

    def __init__(self, amount: float) -> None:
        self.amount = torch.tensor(amount, requires_grad=True)

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * (1 + self.amount)


@pytest.mark.parametrize(("edited", "copies"), [((), 1), (("to_q", "to_v"), 2)])
def test_a_fused_weight_is_copied_once_for_all_its_parts(
    edited: tuple[str, ...], copies: int, monkeypatch: pytest.MonkeyPatch
):
    """Autograd keeps a copy of each paged weight; q, k and v share theirs."""
    graph = graph_of_single("z_image")
    start = "transformer.layers.0.attention."
    with torch.inference_mode(False):
        edits = {f"{start}{part}.weight": Plus(0.1 * n) for n, part in enumerate(edited, 1)}
        patcher = graph.model.clone()
        monkeypatch.setattr(patcher.model, "model_lowvram", True, raising=False)
        weights = network_weights(patcher.model.diffusion_model, "transformer")
        fused = weights[f"{start}to_k.weight"]
        whole = fused.module.weight.detach().clone()
        wrapped = WrappedWeights(patcher, weights, edits, trainable=True)
        with wrapped.installed(), Copies(whole.numel()) as mode:
            used = whole
            for wrapper in patcher.weight_wrapper_patches[fused.key]:
                used = wrapper(used)
        assert mode.count == copies
        assert used.data_ptr() != whole.data_ptr()
        for part, rows in zip(("to_q", "to_k", "to_v"), whole.chunk(3), strict=True):
            edit = edits.get(f"{start}{part}.weight")
            mine = used[weights[f"{start}{part}.weight"].rows]
            torch.testing.assert_close(mine, edit(rows) if edit else rows, rtol=0, atol=0)
        if edits:
            used.sum().backward()
            for edit in edits.values():
                assert edit.amount.grad is not None
