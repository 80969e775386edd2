"""Handles as words: in our own prompts, and in every prompt node downstream."""

from __future__ import annotations

import pytest
import torch
from tiny_models import Graph

from conceptloom.errors import HandleError, UnsupportedModelError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.prompts import HandleTokens, clip_with_handles, encoder_names


def handle_for(clip, vectors: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tables = {
        name: getattr(clip.cond_stage_model, name).transformer.get_input_embeddings().embedding_dim
        for name in encoder_names(clip)
    }
    return {name: torch.randn(vectors, w, generator=generator) for name, w in tables.items()}


def encoded(clip, text: str) -> torch.Tensor:
    """Through the host's own prompt node."""
    from nodes import CLIPTextEncode

    return CLIPTextEncode().encode(clip, text)[0][0][0]


def entries(clip, text: str, key: str | None = None) -> list[tuple]:
    """Tokens between start and end of the first chunk, with their weights."""
    chunks = clip.tokenize(text)
    chunk = chunks[key or next(iter(chunks))][0]
    words = [(t, w) for t, w in chunk[1:] if isinstance(t, torch.Tensor) or t not in (49407, 0)]
    return [(("vector", t.shape[-1]) if isinstance(t, torch.Tensor) else t, w) for t, w in words]


def test_a_handle_is_its_vectors_at_its_place(host: ComfyHost, graph: Graph):
    handle = handle_for(graph.clip, 3)
    prompt = host.encode_prompt("a photo of <mug>, red", {"mug": handle})
    assert prompt.tokens[:5] == (49406, *host.tokenize("a photo of"), "mug")
    assert prompt.find_handle("mug") == (4, 5, 6)
    assert prompt.tokens[7:9] == host.tokenize(", red")
    assert len(prompt.tokens) == prompt.context.shape[1] == 77
    assert prompt.find(host.tokenize("red")) == (8,)


def test_a_handle_with_a_words_own_vectors_is_that_word(host: ComfyHost):
    word = host.encode_prompt("a photo of a cat on a mat")
    handle = host.encode_prompt("a photo of a <it> on a mat", {"it": host.word_vectors("cat")})
    torch.testing.assert_close(handle.context, word.context)
    if word.pooled is not None:
        torch.testing.assert_close(handle.pooled, word.pooled)


def test_long_prompts_come_in_chunks(host: ComfyHost, graph: Graph):
    handle = handle_for(graph.clip, 2)
    prompt = host.encode_prompt(
        "a cat on a mat, " * 20 + "<mug> " + "a dog, " * 20, {"mug": handle}
    )
    assert prompt.context.shape[1] == len(prompt.tokens) == 77 * 3
    assert all(prompt.tokens[77 * i] == 49406 for i in range(3))
    first, second = prompt.find_handle("mug")
    assert second == first + 1
    assert first > 77


def test_several_vectors_stay_in_one_chunk(host: ComfyHost, graph: Graph):
    handle = handle_for(graph.clip, 4)
    prompt = host.encode_prompt("cat " * 73 + "<mug>", {"mug": handle})
    assert prompt.find_handle("mug") == (78, 79, 80, 81)


def test_prompt_nodes_downstream_know_the_handle(graph: Graph, host: ComfyHost):
    handle = handle_for(graph.clip, 2)
    clip = clip_with_handles(graph.clip, {"mug": handle})
    for text in ("a photo of <mug>", "a (<mug>:1.3) in (the rain)", "<mug>", "of<mug>'s, colour"):
        ours = host.encode_prompt(text, {"mug": handle})
        torch.testing.assert_close(encoded(clip, text).float(), ours.context.cpu())
    assert not torch.allclose(encoded(clip, "a <mug>"), encoded(graph.clip, "a <mug>"))


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("<mug>", [1.0]),
        ("(<mug>)", [1.1]),
        ("(<mug>:1.3)", [1.3]),
        ("((<mug>))", [1.1 * 1.1]),
        ("(a <mug>:0.5)", [0.5, 0.5]),
        ("<mug>:1.3", [1.0] * 4),  # outside of brackets it is just text
    ],
)
def test_weights_are_the_hosts_business(sd1: Graph, text: str, weights: list[float]):
    clip = clip_with_handles(sd1.clip, {"mug": handle_for(sd1.clip)})
    found = entries(clip, text)
    assert sum(isinstance(token, tuple) for token, _ in found) == 1
    assert [w for _, w in found][: len(weights)] == pytest.approx(weights)


@pytest.mark.parametrize(
    "behind", [",", ".", "'s", ":", "!", ")", "s", "<other>", "<mug>", "-like"]
)
def test_punctuation_directly_behind_stays_text(sd1: Graph, behind: str):
    clip = clip_with_handles(sd1.clip, {"mug": handle_for(sd1.clip)})
    expected = [t for t, _ in entries(clip, behind)]
    assert [t for t, _ in entries(clip, f"<mug>{behind}")] == [("vector", 64), *expected]


def test_unknown_names_and_plain_words_are_left_alone(sd1: Graph):
    clip = clip_with_handles(sd1.clip, {"mug": handle_for(sd1.clip), "cat": handle_for(sd1.clip)})
    for text in ("a mug and a cat", "<dog> < mug > <>", "embedding:missing a dog", "<MUG>"):
        assert entries(clip, text) == entries(sd1.clip, text)


def test_a_user_may_write_the_mark_too(sd1: Graph):
    clip = clip_with_handles(sd1.clip, {"mug": handle_for(sd1.clip)})
    assert entries(clip, "a embedding:<mug> b") == entries(clip, "a <mug> b")


def test_embedding_files_still_work(sd1: Graph, tmp_path):
    from safetensors.torch import save_file

    vectors = torch.randn(2, 64)
    save_file({"clip_l": vectors}, str(tmp_path / "filed.safetensors"))
    clip = clip_with_handles(sd1.clip, {"mug": handle_for(sd1.clip)})
    for name in ("clip_l",):
        getattr(clip.tokenizer, name).embedding_directory = [str(tmp_path)]
    row = clip.tokenize("a <mug> embedding:filed, b")["l"][0]
    vectors_found = [t for t, _ in row if isinstance(t, torch.Tensor)]
    assert len(vectors_found) == 3
    assert torch.equal(vectors_found[1], vectors[0])


def known_handles(clip) -> set[str]:
    tokenizers = [getattr(clip.tokenizer, name) for name in encoder_names(clip)]
    return {h for t in tokenizers if isinstance(t, HandleTokens) for h in t.handles}


def test_handles_stack_and_the_incoming_clip_stays(graph: Graph):
    clip = graph.clip
    plain = encoded(clip, "a <mug> and a <hat>")
    first = clip_with_handles(clip, {"mug": handle_for(clip, seed=1)})
    both = clip_with_handles(first, {"hat": handle_for(clip, 2, seed=2)})
    assert known_handles(clip) == set()
    assert known_handles(first) == {"mug"}
    assert known_handles(both) == {"mug", "hat"}
    assert len([e for e in entries(both, "<mug> <hat>") if isinstance(e[0], tuple)]) == 3
    assert len([e for e in entries(first, "<mug>") if isinstance(e[0], tuple)]) == 1
    assert torch.equal(encoded(clip, "a <mug> and a <hat>"), plain)
    again = clip_with_handles(both, {"mug": handle_for(clip, seed=1)})
    assert torch.equal(encoded(again, "<mug>"), encoded(both, "<mug>"))
    with pytest.raises(HandleError, match="Two concepts use the handle <mug>"):
        clip_with_handles(both, {"mug": handle_for(clip, 4, seed=3)})


def test_handles_survive_what_nodes_do_with_a_clip(sd1: Graph):
    from nodes import CLIPSetLastLayer

    clip = clip_with_handles(sd1.clip, {"mug": handle_for(sd1.clip)})
    later = CLIPSetLastLayer().set_last_layer(clip, -2)[0].clone()
    assert known_handles(later) == {"mug"}
    assert not torch.allclose(encoded(later, "<mug>"), encoded(clip, "<mug>"))


def test_vectors_are_the_handles_own_copy(sd1: Graph):
    handle = handle_for(sd1.clip)
    clip = clip_with_handles(sd1.clip, {"mug": handle})
    before = encoded(clip, "<mug>")
    handle["clip_l"].zero_()
    assert torch.equal(encoded(clip, "<mug>"), before)


def test_two_handles_of_the_same_vectors_keep_their_names(sd1: Graph):
    host, handle = ComfyHost(sd1.model, sd1.clip), handle_for(sd1.clip)
    prompt = host.encode_prompt("<one> <two>", {"one": handle, "two": handle})
    assert prompt.tokens[1:3] == ("one", "two")


def test_handles_of_another_base_model_are_refused(graph: Graph):
    with pytest.raises(HandleError, match="another kind of base model"):
        clip_with_handles(graph.clip, {"mug": {"clip_l": torch.zeros(1, 7)}})
    with pytest.raises(HandleError, match="cannot be a handle"):
        clip_with_handles(graph.clip, {"a mug": handle_for(graph.clip)})


def test_other_text_encoders_are_refused(sd1: Graph):
    clip = sd1.clip.clone()
    clip.cond_stage_model = torch.nn.Module()
    clip.cond_stage_model.t5xxl = torch.nn.Linear(1, 1)
    with pytest.raises(UnsupportedModelError, match="t5xxl"):
        encoder_names(clip)


def test_tokens_are_those_of_the_host(host: ComfyHost, graph: Graph):
    text = "An intricate wooden chair, 3/4 view"
    first = next(iter(host.encoders)).removeprefix("clip_")
    chunk = [t for t, _ in graph.clip.tokenize(text)[first][0]]
    ids = host.tokenize(text)
    assert tuple(chunk[1 : 1 + len(ids)]) == ids
    assert host.encode_prompt(text).tokens == tuple(chunk)
