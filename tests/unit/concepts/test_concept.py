"""What a concept adds to a model, alone and with others."""

from __future__ import annotations

import pytest
import torch

from conceptloom.concepts.concept import (
    Concept,
    Diff,
    LowRank,
    check_base,
    identities,
    renamed,
    stacked,
    weight_edits,
)
from conceptloom.errors import BaseMismatchError, HandleError, ModelError

from ..fake_host import some_concept

K = "unet.output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


def concept_of(change: Diff | LowRank, name: str = "my-mug", base: str = "b") -> Concept:
    return Concept(
        handles={name: {"clip_l": torch.zeros(1, 2)}}, weights={K: change}, base=base, method="m"
    )


def test_low_rank_is_scale_times_up_down() -> None:
    change = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]]), 0.5)
    assert change.delta((2, 2)).tolist() == [[1.5, 2.0], [3.0, 4.0]]


def test_a_convolution_and_a_linear_layer_take_the_same_change() -> None:
    change = LowRank(torch.ones(2, 1), torch.ones(1, 3, 1, 1))
    assert change.delta((2, 3, 1, 1)).shape == (2, 3, 1, 1)
    assert change.delta((2, 3)).tolist() == [[1.0] * 3] * 2


def test_a_change_of_another_shape_is_refused() -> None:
    with pytest.raises(ModelError, match="another base model"):
        Diff(torch.ones(2, 3)).delta((3, 2))


def test_strength_scales_the_difference() -> None:
    edit = weight_edits(concept_of(Diff(torch.tensor([[2.0, 4.0]]))), 0.5)[K]
    assert edit(torch.tensor([[1.0, 1.0]])).tolist() == [[2.0, 3.0]]


def test_strength_zero_edits_nothing() -> None:
    assert weight_edits(some_concept(), 0.0) == {}
    assert stacked([(some_concept(), 0.0)]).edits == {}


def test_edits_keep_the_weight_and_its_precision() -> None:
    weight = torch.ones(1, 2, dtype=torch.float16)
    edited = weight_edits(concept_of(Diff(torch.ones(1, 2))))[K](weight)
    assert edited.dtype == torch.float16
    assert weight.tolist() == [[1.0, 1.0]]


def test_differences_of_several_concepts_add_up() -> None:
    first = concept_of(Diff(torch.tensor([[1.0]])))
    second = concept_of(LowRank(torch.tensor([[2.0]]), torch.tensor([[3.0]])), "cat_2")
    stack = stacked([(first, 1.0), (second, 0.5)])
    assert stack.edits[K](torch.tensor([[10.0]])).tolist() == [[14.0]]
    assert list(stack.handles) == ["my-mug", "cat_2"]


def test_the_same_handle_twice_is_refused_with_advice() -> None:
    with pytest.raises(HandleError, match="rename"):
        stacked([(some_concept(), 1.0), (some_concept(seed=1), 1.0)])
    upper = renamed(some_concept(), {"my-mug": "My-Mug", "cat_2": "x"})
    with pytest.raises(HandleError, match="differs only in case"):
        stacked([(some_concept(), 1.0), (upper, 1.0)])


def test_the_same_concept_twice_is_strength_two() -> None:
    weight, concept = torch.tensor([[10.0]]), concept_of(Diff(torch.tensor([[1.0]])))
    stack = stacked([(concept, 1.0), (concept_of(Diff(torch.tensor([[1.0]]))), 0.5)])
    assert stack.edits[K](weight).tolist() == [[11.5]]
    assert list(stack.handles) == ["my-mug"]
    with pytest.raises(HandleError):  # the same vectors, other weights
        stacked([(concept, 1.0), (concept_of(Diff(torch.tensor([[2.0]]))), 1.0)])
    renamed_one = renamed(concept, {"my-mug": "x1"})
    assert identities(renamed_one)["x1"] == identities(concept)["my-mug"]
    assert stacked([(concept, 1.0), (renamed_one, 1.0)]).edits[K](weight).tolist() == [[12.0]]


def test_concepts_of_different_bases_do_not_stack() -> None:
    with pytest.raises(BaseMismatchError):
        stacked([(concept_of(Diff(torch.ones(1))), 1.0), (some_concept(names=("x1",)), 1.0)])


def test_renaming_follows_into_prompts_and_words() -> None:
    concept = renamed(some_concept(), {"my-mug": "cup-1"})
    assert concept.names == ["cup-1", "cat_2"]
    assert concept.prompts == ("a photo of <cup-1>", "a photo of <cat_2>")
    assert concept.words["cup-1"] == "thing"


def test_handles_can_be_swapped() -> None:
    concept = renamed(some_concept(), {"my-mug": "cat_2", "cat_2": "my-mug"})
    assert concept.names == ["cat_2", "my-mug"]
    assert concept.prompts == ("a photo of <cat_2>", "a photo of <my-mug>")


@pytest.mark.parametrize("names", [{"nobody": "x"}, {"my-mug": "cat_2"}, {"my-mug": "a b"}])
def test_bad_renaming_is_refused(names: dict[str, str]) -> None:
    with pytest.raises(HandleError):
        renamed(some_concept(), names)


def test_another_base_is_named() -> None:
    check_base(some_concept(), some_concept().base)
    with pytest.raises(BaseMismatchError, match=r"clip_l8 .*clip_h1024"):
        check_base(some_concept(), "unet320 context1024 clip_h1024 eps 4ch 1")


def test_handle_vectors_need_rows() -> None:
    with pytest.raises(HandleError, match=r"\[8\]"):
        Concept(handles={"my-mug": {"clip_l": torch.zeros(8)}}, base="b", method="m")
