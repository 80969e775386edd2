"""ConceptLab against numbers recorded from its official code, and that code's two faults."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conceptloom.methods.conceptlab.losses import (
    cosines,
    mix_loss,
    negative_loss,
    positive_loss,
    shares,
)

pytestmark = pytest.mark.parity
RECORDED = load_file(Path(__file__).with_name("conceptlab_step.safetensors"))
CLOSE = {"rtol": 1e-6, "atol": 1e-7}  # float32 in another order of sums
LENGTH, START, END, PAD = 10, 10, 11, 0
BODY = ("3", "4", "<new>", "5")  # the recorded prompt


def of(name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(f"{name}/"): tensor
        for key, tensor in RECORDED.items()
        if key.startswith(f"{name}/")
    }


@pytest.mark.parametrize("name", ["clamped", "open", "mixing", "met"])
def test_loss_and_gradient_are_the_official_ones(name: str) -> None:
    case = of(name)
    ceiling, floor, factor = case["clamps"].tolist()
    vector = case["vector"].requires_grad_()
    imagined = torch.tanh(case["matrix"] @ vector)
    positive = cosines(case["positives"], imagined)
    negative = cosines(case.get("negatives", torch.zeros(0, 8)), imagined)
    loss = factor * positive_loss(positive, case["weights"], ceiling)
    loss = loss + negative_loss(negative, floor)
    loss.backward()
    assert vector.grad is not None
    torch.testing.assert_close(loss.detach(), case["loss"], **CLOSE)
    torch.testing.assert_close(vector.grad, case["gradient"], **CLOSE)


def test_the_recording_has_clamps_on_both_sides() -> None:
    assert not of("met")["gradient"].any()
    assert all(of(name)["gradient"].any() for name in ("clamped", "open", "mixing"))


def test_official_evolution_compares_the_text_feature_and_half_of_it_is_constant() -> None:
    """coach_evolution.py:116 takes (text, image) for (image, text)."""
    case = of("evolution")
    of_image, of_text, constant = case["matrices"]
    vector = case["vector"].requires_grad_()
    # What the official program computed: the text rows of prompt and empty prompt.
    text_rows = torch.stack([torch.tanh(of_text @ vector), constant @ torch.ones(8)])
    official = torch.stack([cosines(case["parents"], row) for row in text_rows]).mean(dim=0)
    loss = mix_loss(official, case["weights"])
    (gradient,) = torch.autograd.grad(loss, vector)
    torch.testing.assert_close(loss.detach(), case["loss"], **CLOSE)
    torch.testing.assert_close(gradient, case["gradient"], **CLOSE)
    # Without the constant row it is twice as strong.
    prompt_only = mix_loss(cosines(case["parents"], torch.tanh(of_text @ vector)), case["weights"])
    (twice,) = torch.autograd.grad(prompt_only, vector)
    torch.testing.assert_close(twice, 2 * case["gradient"], **CLOSE)
    # The paper's form, and ours: what the prior gave.
    paper = mix_loss(cosines(case["parents"], torch.tanh(of_image @ vector)), case["weights"])
    assert abs(paper.item() - case["loss"].item()) > 0.01


class Numbers:
    """A tokenizer whose words are their own ids."""

    bos_token_id, eos_token_id, pad_token_id = START, END, PAD

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


def recorded_text() -> object:
    transformers = pytest.importorskip("transformers")
    from conceptloom.vision.text_side import ClipText

    model = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=12,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            projection_dim=8,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=PAD,
            hidden_act="quick_gelu",
        )
    ).eval()
    weights = of("pooled/model")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            found = [k for k in weights if k.endswith(name.removeprefix("text_model."))]
            assert len(found) == 1, name
            parameter.copy_(weights[found[0]])
    return ClipText("clip_l", model, Numbers())


def test_ours_pools_each_row_at_its_own_end_token_where_the_official_one_errs() -> None:
    """coach.py:217-218 reads both rows at the conditional row's position."""
    case, text = of("pooled"), recorded_text()
    handles = {"new": {"clip_l": case["handle"][None]}}
    with torch.no_grad():
        prompt, empty = (text.encode(t, handles) for t in (" ".join(BODY), ""))  # type: ignore[attr-defined]
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(prompt.hidden[0], case["hidden"][0], **close)
    torch.testing.assert_close(empty.hidden[0], case["hidden"][1], **close)
    torch.testing.assert_close(prompt.pooled[0], case["features"][0], **close)
    assert torch.equal(prompt.mask[0], case["mask"][0].bool())
    assert torch.equal(empty.mask[0], case["mask"][1].bool())
    # Theirs of the empty prompt stands at position 5, which is padding there; ours at 1.
    projection = text.model.text_projection  # type: ignore[attr-defined]
    with torch.no_grad():
        at_padding = projection(empty.hidden[:, 1 + len(BODY)])
    torch.testing.assert_close(at_padding[0], case["features"][1], **close)
    assert not torch.allclose(empty.pooled[0], case["features"][1], atol=0.1)


def test_equal_shares_are_the_official_default() -> None:
    assert shares((), 4).tolist() == [0.25] * 4
