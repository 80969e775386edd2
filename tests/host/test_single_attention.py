"""What the picture looks at in Z-Image and Krea 2: words among all tokens, equal in both hosts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_joint import Looking
from test_single_python import python_host
from test_single_stream import LATENT, PROMPT
from tiny_models import Graph
from tiny_single import single_graph, single_kind
from torch.utils._python_dispatch import TorchDispatchMode

from conceptloom.attention import lag_masks
from conceptloom.attention.capture import read_attention, word_positions
from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.attention.site_selection import sites_to_read
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.ports import Prompt
from conceptloom.samplers.guidance import AttentionTarget, guided_sites, latent_gradient

AT = torch.tensor([0.7])


kind, graph = single_kind, single_graph


@pytest.fixture
def hosts(kind: str, graph: Graph) -> tuple[Any, Any]:
    return ComfyHost(graph.model, graph.clip), python_host(kind, graph)


def captured(host: Any, prompts: list[Prompt], rows: int = 1) -> AttentionCapture:
    capture = AttentionCapture(sites_to_read(host.sites, (10, 12)))
    host.predict(LATENT[:rows], AT.expand(rows), prompts, [capture])
    return capture


def query(host: Any, prompt: Prompt, word: str, row: int = 0) -> TokenQuery:
    return TokenQuery(row, word_positions(host, prompt, word), len(prompt.tokens))


def test_maps_are_the_same_in_both_hosts(hosts: tuple[Any, Any]):
    maps = []
    for host in hosts:
        prompt = host.encode_prompt(PROMPT)
        maps.append(read_attention(host, LATENT[:1], prompt, ["red", "teapot", "photo"]))
    for word, ours in maps[0].items():
        assert ours.shape == (5, 6)
        assert 0 < float(ours.max()) < 1
        torch.testing.assert_close(ours, maps[1][word], rtol=1e-4, atol=1e-6)


def test_a_map_is_a_share_of_the_whole_attention(hosts: tuple[Any, Any]):
    host = hosts[0]
    prompt, looking = host.encode_prompt(PROMPT), Looking()
    capture = AttentionCapture([host.sites.attentions[1].block])
    host.predict(LATENT[:1], AT, [prompt], [capture, looking])
    spans, width = looking.tokens, looking.query.shape[3]
    whole = (looking.query @ looking.key.transpose(2, 3) * width**-0.5).softmax(-1).mean(1)[0]
    places = word_positions(host, prompt, "teapot")
    assert len(places) == 2
    rows = [spans.text.start + place for place in places]
    start = spans.picture.start
    expected = whole[start : start + spans.positions, rows].sum(1).view(5, 6)
    (ours,) = capture.maps([query(host, prompt, "teapot")])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


def test_prompts_of_unlike_length_have_their_own_maps(hosts: tuple[Any, Any]):
    for host in hosts:
        texts = (PROMPT, "a red cup")
        prompts = [host.encode_prompt(text) for text in texts]
        together = captured(host, prompts, rows=2)
        queries = [query(host, prompt, "red", row) for row, prompt in enumerate(prompts)]
        maps = together.maps(queries[::-1])
        for row, prompt in enumerate(prompts):
            capture = AttentionCapture(sites_to_read(host.sites, (10, 12)))
            host.predict(LATENT[row : row + 1], AT, [prompt], [capture])
            (alone,) = capture.maps([query(host, prompt, "red")])
            torch.testing.assert_close(maps[1 - row], alone, rtol=1e-5, atol=1e-7)


def test_gradients_to_latents_are_the_same_in_both_hosts(kind: str, graph: Graph):
    gradients = []
    for host in (ComfyHost(graph.model, graph.clip), python_host(kind, graph)):
        prompt = host.encode_prompt(PROMPT)
        targets = [AttentionTarget(word_positions(host, prompt, "teapot"), len(prompt.tokens))]

        def forward(latent: Any, edit: Any, host: Any = host, prompt: Any = prompt) -> object:
            return host.predict(latent, AT, [prompt], [edit])

        with torch.inference_mode(False), host.edited({}, trainable=True):
            gradients.append(
                latent_gradient(forward, LATENT[:1].clone(), targets, guided_sites(host.sites))
            )
    size = float(gradients[0].abs().max())
    assert size > 0
    assert float((gradients[0] - gradients[1]).abs().max()) <= 1e-4 * size


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.numbers = max(self.numbers, output.numel())
        return output


def test_no_whole_map_is_made_and_gradients_stay(monkeypatch: pytest.MonkeyPatch):
    with torch.inference_mode(False), torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        shapes = ((1, 200, 64), (1, 230, 64))
        query, key = (torch.randn(shape, generator=generator) for shape in shapes)
        query.requires_grad_(True)
        key.requires_grad_(True)
        chosen = torch.zeros(1, 30, 1)
        chosen[0, [3, 4]] = 1
        results = []
        for most in (2**20, 4 * 230 * 8):
            monkeypatch.setitem(lag_masks.MOST_LOGITS, "cpu", most)
            with Largest() as largest:
                probs = lag_masks.summed_attention(query, key, 4, chosen)
                gradients = torch.autograd.grad(probs.square().sum(), (query, key))
            results.append((probs, *gradients))
            assert (largest.numbers >= 4 * 200 * 230) == (most == 2**20)
        for whole, parts in zip(*results, strict=True):
            torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)
