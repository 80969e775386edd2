"""Names of handles, and what their vectors start from."""

from __future__ import annotations

import logging

import pytest
import torch

from conceptloom.concepts.handles import (
    HandleParameters,
    checked_name,
    checked_names,
    initial_handles,
    initial_vectors,
    initialiser_note,
)
from conceptloom.errors import HandleError

from ..fake_host import FakeHost

BAD_NAMES = [
    "",
    "<>",
    "my mug",
    " mug",
    "mug\n",
    "<mug",
    "mug>",
    "<<mug>>",
    "m.g",
    "m/g",
    "../mug",
    "m\0g",
    "m\u2013g",
    "\U0001f600",
    "m\u200dg",
    "a" * 41,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused_with_a_proposal(name: str) -> None:
    with pytest.raises(HandleError, match=r"for example|such as"):
        checked_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "mug",
        "my-mug",
        "Mug_2",
        "7",
        "a" * 40,
        "\ub0b4\ucef5",
        "tass\u00e9",
        "\u0915\u093f\u0924\u093e\u092c",
        "\u6211\u7684-\u676f",
    ],
)
def test_names_go_with_and_without_brackets(name: str) -> None:
    assert checked_name(name) == checked_name(f"<{name}>") == name


def test_letters_are_composed_and_full_width_brackets_read() -> None:
    assert checked_name("tasse\u0301") == checked_name("\uff1ctass\u00e9\uff1e") == "tass\u00e9"
    with pytest.raises(HandleError, match="twice"):
        checked_names(["tasse\u0301", "TASS\u00c9"])


def test_the_proposal_is_itself_a_name() -> None:
    with pytest.raises(HandleError, match=r"for example my-mug\.$"):
        checked_name("my mug")


@pytest.mark.parametrize("pair", [("x1", "x1"), ("x1", "<x1>"), ("Cup-1", "cup-1")])
def test_a_handle_twice_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(HandleError, match="twice"):
        checked_names(pair)


def test_a_word_of_the_vocabulary_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="conceptloom"):
        assert checked_names(["my-mug"], FakeHost()) == ["my-mug"]
        assert not caplog.text
        assert checked_names(["mug"], FakeHost()) == ["mug"]
    assert "my-mug" in caplog.text


def test_one_token_starts_all_the_same() -> None:
    host = FakeHost()
    assert torch.equal(initial_vectors(host, "cat")["clip_l"][0], host.token_table("clip_l")[0])
    assert initialiser_note(host, "cat") == ""


def test_no_token_of_a_word_is_dropped() -> None:
    host = FakeHost()
    rows = host.word_vectors("cup")["clip_l"]
    mean = initial_vectors(host, "cup")["clip_l"]
    assert torch.allclose(mean, rows.mean(0, keepdim=True))
    assert "3 tokens" in initialiser_note(host, "cup")


def test_several_tokens_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="conceptloom"):
        initial_handles(FakeHost(), {"x1": "cup"})
    assert "'cup' has 3 tokens" in caplog.text


def test_a_word_without_token_is_refused() -> None:
    host = FakeHost()
    host.tokenize = lambda text: ()  # type: ignore[method-assign]
    with pytest.raises(HandleError, match="no token"):
        initial_vectors(host, "...")


def test_random_vectors_look_like_the_table() -> None:
    host = FakeHost()
    name = "clip_l.text_model.embeddings.token_embedding.weight"
    host.weights[name] = host.weights[name] * 0.01 + 5
    drawn = torch.cat(
        [initial_handles(host, {"x1": ""}, seed=s)["x1"]["clip_l"] for s in range(400)]
    )
    assert torch.allclose(drawn.mean(0), host.weights[name].mean(0), atol=3e-3)
    assert torch.allclose(drawn.std(0), host.weights[name].std(0), rtol=0.2)


def test_what_is_drawn_depends_on_seed_and_name_only() -> None:
    host = FakeHost()
    both = initial_handles(host, {"x1": "", "x2": ""}, seed=5)
    turned = initial_handles(host, {"x2": "", "x1": ""}, seed=5)
    assert torch.equal(both["x1"]["clip_l"], turned["x1"]["clip_l"])
    assert not torch.equal(both["x1"]["clip_l"], both["x2"]["clip_l"])
    assert not torch.equal(
        both["x1"]["clip_l"], initial_handles(host, {"x1": ""}, seed=6)["x1"]["clip_l"]
    )


def test_every_encoder_gets_vectors() -> None:
    host = FakeHost(encoders=("clip_l", "clip_g"))
    handles = initial_handles(host, {"x1": "cat", "x2": ""})
    assert {name: set(vectors) for name, vectors in handles.items()} == {
        "x1": {"clip_l", "clip_g"},
        "x2": {"clip_l", "clip_g"},
    }


def test_parameters_are_float32_copies_with_stable_names() -> None:
    initial = {"x1": {"clip_l": torch.ones(2, 8, dtype=torch.float16)}}
    handles = HandleParameters(initial)
    assert list(handles.named()) == ["handle.x1.clip_l"]
    with torch.no_grad():
        next(handles.parameters()).add_(1)
    assert initial["x1"]["clip_l"].eq(1).all()
    saved = handles.state()
    assert saved["handle.x1.clip_l"].dtype == torch.float32
    other = HandleParameters(initial)
    other.load_state(saved)
    assert torch.equal(other.to_concept_handles()["x1"]["clip_l"], torch.full((2, 8), 2.0))
