"""Prompts of any length, with handles, for one and two text encoders."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from conceptloom.errors import HandleError, PromptError
from conceptloom.host.contexts import batched_context, batched_pooled
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Prompt
from conceptloom.host.prompt_text import (
    check_vectors,
    handles_in,
    misspelt,
    split_at_handles,
    weighted_pieces,
    without_passages,
)

from ..tiny_models import END, START, hooks_on, noise, tiny_host


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


@pytest.fixture(scope="module")
def xl() -> DiffusersHost:
    return tiny_host("sdxl")


def handle(rows: int = 1, seed: int = 0) -> dict[str, Tensor]:
    return {"clip_l": noise(rows, 16, seed=seed), "clip_g": noise(rows, 24, seed=seed + 1)}


def test_a_prompt_stands_in_one_window(host: DiffusersHost) -> None:
    prompt = host.encode_prompt("a photo of a cat")
    body = host.tokenize("a photo of a cat")
    assert prompt.tokens == (START, *body, END, *[END] * (77 - 2 - len(body)))
    assert prompt.content == (False, *[True] * len(body), *[False] * (77 - 1 - len(body)))
    assert prompt.context.shape == (1, 77, 16)
    ids = torch.tensor([prompt.tokens])
    direct = host._encoders[0].model(input_ids=ids).last_hidden_state
    assert torch.equal(prompt.context, direct)


def test_handles_are_rows_of_their_own(host: DiffusersHost) -> None:
    handles = {"mug": handle(3), "cat": handle(1, seed=5)}
    prompt = host.encode_prompt("a <cat> beside <mug>", handles)
    beside = host.tokenize("beside")
    assert prompt.tokens[:8] == (START, *host.tokenize("a"), "cat", *beside, *["mug"] * 3, END)
    assert prompt.find_handle("mug") == (4, 5, 6)
    assert prompt.find_handle("cat") == (2,)
    assert prompt.find_handle("dog") == ()


def test_a_handle_with_a_words_vector_is_that_word(host: DiffusersHost, xl: DiffusersHost) -> None:
    for model in (host, xl):
        vectors, word = {"mug": model.word_vectors("cat")}, model.encode_prompt("a cat")
        before = hooks_on(model)  # transformers leaves some of its own after the first pass
        same = model.encode_prompt("a <mug>", vectors)
        assert torch.equal(word.context, same.context)
        if word.pooled is not None:
            assert torch.equal(word.pooled, same.pooled)
        assert hooks_on(model) == before


def test_both_encoders_see_their_own_rows(xl: DiffusersHost) -> None:
    vectors = handle(2)
    prompt = xl.encode_prompt("a <mug>", {"mug": vectors})
    assert prompt.context.shape == (1, 77, 40)
    assert prompt.pooled is not None
    assert prompt.pooled.shape == (1, 24)
    for name, part in (("clip_l", slice(0, 16)), ("clip_g", slice(16, 40))):
        changed = {**vectors, name: vectors[name] + 1}
        other = xl.encode_prompt("a <mug>", {"mug": changed})
        same = (other.context == prompt.context).all(dim=1).flatten()
        assert not same[part].any()
        rest = torch.ones(40, dtype=torch.bool)
        rest[part] = False
        assert same[rest].all()


def test_vectors_of_a_missing_encoder_are_reported(xl: DiffusersHost) -> None:
    xl.encode_prompt("")
    before = hooks_on(xl)
    with pytest.raises(PromptError, match="<mug> has no vectors for the text encoder clip_g"):
        xl.encode_prompt("a <mug>", {"mug": {"clip_l": noise(1, 16)}})
    assert hooks_on(xl) == before


@pytest.mark.parametrize(
    ("widths", "needs"),
    [
        ({"qwen3": 32}, r"qwen3 \(16 wide\).*needs qwen3 \(32 wide\)"),
        ({"qwen3": 16, "t5": None}, r"needs qwen3 \(16 wide\), t5"),
        ({"clip_l": 16}, r"needs clip_l \(16 wide\)"),
    ],
)
def test_vectors_that_a_clip_cannot_take_are_named(widths: dict, needs: str) -> None:
    check_vectors("mug", {"qwen3": noise(1, 16)}, {"qwen3": 16})
    with pytest.raises(HandleError, match=needs):
        check_vectors("mug", {"qwen3": noise(1, 16)}, widths)


def test_encoders_with_different_numbers_of_vectors_are_reported(xl: DiffusersHost) -> None:
    uneven = {"mug": {"clip_l": noise(1, 16), "clip_g": noise(2, 24)}}
    with pytest.raises(PromptError, match="as many vectors in every encoder"):
        xl.encode_prompt("a <mug>", uneven)


def test_gradients_reach_the_handles_and_nothing_else(xl: DiffusersHost) -> None:
    vectors = {name: nn.Parameter(rows) for name, rows in handle(2).items()}
    idle = {name: nn.Parameter(rows) for name, rows in handle(1, seed=7).items()}
    with xl.edited({}, trainable=True):
        prompt = xl.encode_prompt("a photo of <mug>", {"mug": vectors, "idle": idle})
        (prompt.context.square().sum() + prompt.pooled.sum()).backward()  # type: ignore[union-attr]
    for rows in vectors.values():
        assert rows.grad is not None
        assert (rows.grad.abs().sum(dim=1) > 0).all()
    assert all(rows.grad is None for rows in idle.values())
    assert all(p.grad is None for e in xl._encoders for p in e.model.parameters())


def test_unknown_handles_stay_text(host: DiffusersHost) -> None:
    assert list(split_at_handles("a <mug> and <dog>", {"mug"})) == [
        ("a ", False),
        ("mug", True),
        (" and <dog>", False),
    ]
    assert list(split_at_handles("<mug><mug>", {"mug"})) == [("mug", True)] * 2
    assert list(split_at_handles("  ", {"mug"})) == []
    assert handles_in("<b> and <a> near <b>, not < c > or <d e>") == ["b", "a"]
    assert handles_in("(<a>:1.2)") == ["a"]
    plain = host.encode_prompt("a <dog>")
    assert plain.tokens[1:6] == (*host.tokenize("a <dog>"), END)


def test_long_prompts_fill_several_windows(host: DiffusersHost) -> None:
    words = [f"w{i}" for i in range(100)]
    prompt = host.encode_prompt(" ".join(words))
    assert prompt.context.shape == (1, 154, 16)
    assert prompt.tokens[0] == prompt.tokens[77] == START
    body = [*prompt.tokens[1:76], *prompt.tokens[78 : 78 + 25]]
    assert tuple(body) == host.tokenize(" ".join(words))
    assert prompt.tokens[76] == prompt.tokens[103] == END


def test_a_handle_is_not_torn_apart_at_the_end_of_a_window(host: DiffusersHost) -> None:
    before = " ".join(f"w{i}" for i in range(73))
    prompt = host.encode_prompt(f"{before} <mug> after", {"mug": handle(4)})
    assert prompt.find_handle("mug") == (78, 79, 80, 81)
    # two places of the first window stay empty
    assert prompt.tokens[74:77] == (END, END, END)


def test_a_very_long_handle_fills_what_is_left(host: DiffusersHost) -> None:
    before = " ".join(f"w{i}" for i in range(70))
    prompt = host.encode_prompt(f"{before} <mug>", {"mug": handle(80)})
    assert len(prompt.find_handle("mug")) == 80
    assert prompt.tokens[71:79] == (*["mug"] * 5, END, START, "mug")
    assert prompt.context.shape == (1, 154, 16)


def test_the_empty_prompt_is_one_window(host: DiffusersHost) -> None:
    prompt = host.encode_prompt("")
    assert prompt.tokens == (START, *[END] * 76)


def context(length: int, seed: int, pooled: bool = False) -> Prompt:
    made = noise(1, length, 16, seed=seed)
    return Prompt("", made, tuple(range(length)), noise(1, 24, seed=seed) if pooled else None)


def test_contexts_are_repeated_to_a_common_length() -> None:
    short, longer = context(2, 0), context(3, 1)
    both = batched_context([short, longer], 2)
    assert both.shape == (2, 6, 16)
    assert torch.equal(both[0], short.context[0].repeat(3, 1))
    assert torch.equal(both[1], longer.context[0].repeat(2, 1))
    assert torch.equal(batched_context([short], 3), short.context.expand(3, -1, -1))
    with pytest.raises(PromptError, match="2 prompts came for 3 latents"):
        batched_context([short, longer], 3)


def test_pooled_outputs_follow_their_rows() -> None:
    one, two = context(2, 0, True), context(2, 1, True)
    pooled = batched_pooled([one, two], 2)
    assert pooled is not None
    assert torch.equal(pooled, torch.cat([one.pooled, two.pooled]))  # type: ignore[list-item]
    assert batched_pooled([context(2, 0)], 2) is None


def test_repeats_leave_the_prediction_unchanged(host: DiffusersHost, xl: DiffusersHost) -> None:
    for model in (host, xl):
        short = model.encode_prompt("a cat")
        longer = model.encode_prompt(" ".join(f"w{i}" for i in range(100)))
        latent, at = noise(2, 4, 8, 8), torch.tensor([300, 300])
        with torch.no_grad():
            together = model.predict(latent, at, [short, longer])
            alone = model.predict(latent[:1], at[:1], [short])
        assert torch.allclose(together[:1], alone, atol=1e-5)


def test_rows_of_a_batch_do_not_mix(xl: DiffusersHost) -> None:
    prompts = [xl.encode_prompt(text) for text in ("a cat", "two dogs", "a cat")]
    latent, at = noise(3, 4, 8, 8), torch.tensor([300, 20, 700])
    with torch.no_grad():
        together = xl.predict(latent, at, prompts)
        alone = [xl.predict(latent[i : i + 1], at[i : i + 1], [prompts[i]]) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


MISSPELT = {
    "a <my-bxo>": "<my-bxo> .*did you mean <my-box>",
    "a <My-Box>": "did you mean <my-box>",
    "a <my-box:0.8>": r"write \(<my-box>:0.8\)",
    "a < my-box >": "write <my-box>",
    "a \uff1cmy-bxo\uff1e": "did you mean <my-box>",
    "a (<boxy:1.3>)": "did you mean <my-box>",
    "a <zebra>": "known are <my-box>, <\ub0b4\ucef5>",
    "a <\ub0b4\ucef4>": "did you mean <\ub0b4\ucef5>",
}


@pytest.mark.parametrize(("text", "told"), MISSPELT.items(), ids=list(MISSPELT))
def test_misspelt_words_are_reported_with_the_nearest_name(text: str, told: str) -> None:
    known = ["my-box", "\ub0b4\ucef5"]
    (sentence,) = misspelt(f"{text} and {text}", known)
    assert re.search(told, sentence)
    assert "plain text" in sentence


@pytest.mark.parametrize(
    "text",
    [
        "<my-box>",
        "(<my-box>:1.3)",
        "\uff1cmy-box\uff1e",
        "a < b and b > c",
        "<3",
        "<lora:x:1>",
        "<>",
    ],
)
def test_what_is_spelt_right_or_no_handle_is_not_reported(text: str) -> None:
    if text != "<3":
        assert misspelt(text, ["my-box"]) == []
    assert misspelt("\uff1ctasse\u0301\uff1e", ["tass\u00e9"]) == []


def test_full_width_brackets_and_letters_of_any_kind_are_read(host: DiffusersHost) -> None:
    handles = {"\ub0b4\ucef5": handle(2), "tass\u00e9": handle(1, seed=5)}
    prompt = host.encode_prompt("\uff1c\ub0b4\ucef5\uff1e <tasse\u0301>", handles)
    assert prompt.tokens[1:4] == ("\ub0b4\ucef5", "\ub0b4\ucef5", "tass\u00e9")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (cat)", [("a ", 1.0), ("cat", 1.1)]),
        ("a (cat:1.3) here", [("a ", 1.0), ("cat", 1.3), (" here", 1.0)]),
        ("((cat))", [("cat", 1.1 * 1.1)]),
        ("((cat:0.5) dog)", [("cat", 0.5), (" dog", 1.1)]),
        ("(cat:x)", [("cat:x", 1.1)]),
        (r"a \(cat\)", [("a (cat)", 1.0)]),
        ("a (cat", [("a ", 1.0), ("(cat", 1.0)]),
        ("", []),
    ],
)
def test_weights_are_read_as_comfyui_reads_them(text: str, pieces: list[object]) -> None:
    assert weighted_pieces(text) == pieces


def test_a_weight_moves_away_from_the_empty_prompt(host: DiffusersHost, xl: DiffusersHost) -> None:
    handles = {"mug": handle(2)}
    for model in (host, xl):
        plain = model.encode_prompt("a <mug> here", handles)
        empty = model.encode_prompt("").context
        heavy = model.encode_prompt("a (<mug>:1.3) here", handles)
        assert heavy.tokens == plain.tokens
        expected = plain.context.clone()
        at = list(plain.find_handle("mug"))
        expected[:, at] = empty[:, at] + 1.3 * (plain.context[:, at] - empty[:, at])
        torch.testing.assert_close(heavy.context, expected)
        assert torch.equal(model.encode_prompt("a (<mug>:1) here", handles).context, plain.context)
        if plain.pooled is not None:
            torch.testing.assert_close(heavy.pooled, plain.pooled)


def test_passages_leave_the_prompt() -> None:
    assert without_passages("a Blue  circle and a circle", ["blue circle"]) == "a and a circle"
