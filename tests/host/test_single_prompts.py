"""Prompts with handles on Z-Image and Krea 2: what the host's own text node understands stays."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_single_python import python_host
from tiny_models import Graph
from tiny_single import single_graph, single_kind

from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.prompts import clip_with_handles

kind, graph = single_kind, single_graph


@pytest.fixture
def hosts(kind: str, graph: Graph) -> tuple[Any, Any]:
    pytest.importorskip("diffusers")
    return ComfyHost(graph.model, graph.clip), python_host(kind, graph)


def named(host: Any, word: str = " dog") -> dict[str, dict[str, torch.Tensor]]:
    return {"it": host.word_vectors(word)}


def entries(clip: Any, text: str) -> list[Any]:
    (row,) = next(iter(clip.tokenize(text).values()))
    return [("vector", len(t)) if isinstance(t, torch.Tensor) else t for t, _ in row]


@pytest.mark.parametrize("text", [r"a \(red\) {} on a table", r"a (red:1.3) {} \( \\("])
def test_escaped_brackets_are_those_of_the_host(hosts: tuple[Any, Any], text: str):
    """`\\(` is a bracket and weights are text, as without a handle."""
    word = hosts[0].encode_prompt(text.format("dog"))
    for host in hosts:
        handle = host.encode_prompt(text.format("<it>"), named(host))
        torch.testing.assert_close(handle.context, word.context, rtol=1e-4, atol=1e-4)


def test_escapes_without_a_handle_are_read_alike(hosts: tuple[Any, Any]):
    ours, theirs = (host.encode_prompt(r"a \(red\) mug") for host in hosts)
    assert ours.tokens == theirs.tokens
    torch.testing.assert_close(ours.context, theirs.context, rtol=1e-4, atol=1e-4)


def clip_with_files(graph: Graph, folder: Path, width: int = 48) -> Any:
    """A CLIP that finds `filed`, two vectors, in a folder of embeddings."""
    clip = copy.copy(graph.clip)
    clip.tokenizer = copy.copy(clip.tokenizer)
    ((name, inner),) = ((n, v) for n, v in vars(clip.tokenizer).items() if n.startswith("qwen3"))
    setattr(clip.tokenizer, name, copy.copy(inner))
    getattr(clip.tokenizer, name).embedding_directory = [str(folder)]
    save_file({name: torch.ones(2, width)}, str(folder / "filed.safetensors"))
    return clip


@pytest.mark.parametrize(
    "text",
    [
        "a embedding:filed, and a {}",
        "embedding:filed cat {}",
        "a {} embedding:filed  red cat",
        "a {} embedding:filed",
        "a {} embedding:missing cat",
    ],
)
def test_embeddings_beside_a_handle_are_read(graph: Graph, tmp_path: Path, text: str):
    clip = clip_with_files(graph, tmp_path)
    host = ComfyHost(graph.model, clip)
    both = clip_with_handles(clip, {"it": named(host)["it"]})
    plain = entries(clip, text.format("dog"))
    found = entries(both, text.format("<it>"))
    vector = ("vector", 48)
    assert found.count(vector) == plain.count(vector) + 1
    # What closes the template keeps its lines, which the host's own node takes for spaces here.
    assert found[-5:] == entries(clip, "a dog")[-5:]
    (dog,) = {*entries(clip, "a dog")} - {*entries(clip, "a")}
    first = plain.index(dog) if dog in plain else len(plain)
    assert found[:first] == plain[:first]
    behind = found[found.index(vector, first) + 1 : -5]
    assert behind == plain[first + 1 : first + 1 + len(behind)]


def test_a_user_may_write_the_mark_too(hosts: tuple[Any, Any]):
    for host in hosts:
        written, plain = (
            host.encode_prompt(text, named(host)) for text in ("a embedding:<it> cat", "a <it> cat")
        )
        assert written.tokens == plain.tokens
