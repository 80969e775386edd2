"""Concept files that read well and say odd things: refused, and what is odd is named."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptloom.concepts.concept_file import load_concept
from conceptloom.concepts.tensor_file import write_document
from conceptloom.errors import ConceptFileError

from .concept_file_cases import FUZZ, sound_document

pytestmark = pytest.mark.usefixtures("quick_disk")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_the_sound_document_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_document(path, {"handle.x1.clip_l": torch.ones(1, 4)}, sound_document())
    assert load_concept(path).names == ["x1"]


@settings(max_examples=300, **FUZZ)
@given(data=st.data())
def test_hostile_documents_end_in_one_kind_of_error(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in the document: a concept, or a ConceptFileError."""
    document = sound_document()
    name = data.draw(st.sampled_from([*document, "other"]))
    document[name] = data.draw(json_values)
    path = tmp_path / "hostile.safetensors"
    try:
        write_document(path, {"handle.x1.clip_l": torch.ones(1, 4)}, document)
    except UnicodeEncodeError:
        return
    with suppress(ConceptFileError):
        load_concept(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 3}, "newer ConceptLoom"),
        ({"version": 0}, "version 0"),
        ({"version": True}, "version True"),
        ({"format": "other"}, "format"),
        ({"format": "training state"}, "queue the trainer again"),
        ({"extra": 1}, "'extra'"),
        ({"recipe": []}, "recipe"),
        ({"prompts": [1]}, "prompts"),
        ({"prompts": ["x" * 20_000]}, "prompts"),
        ({"prompts": ["x"] * 2_000}, "prompts"),
        ({"method": "a\0b"}, "method"),
        ({"seeds": {"a": 1.5}}, "seed"),
        ({"scales": {"unet.x": 1.0}}, "unet.x"),
        ({"scales": {"unet.x": "1"}}, "scale"),
        ({"scales": {"unet.x": 10**400}}, "scale"),
        ({"thumbnail": "!!"}, "thumbnail"),
        ({"thumbnail": "QUJD"}, "thumbnail"),
        ({"thumbnail": "A" * 2_000_000}, "thumbnail"),
    ],
)
def test_odd_documents_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"handle.x1.clip_l": torch.ones(1, 4)}
    write_document(path, tensors, {**sound_document(), **change})
    with pytest.raises(ConceptFileError, match=told):
        load_concept(path)


UP, DOWN = "adapter.unet.out.2.up", "adapter.unet.out.2.down"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"handle.x1.t5": torch.ones(1, 4)}, "unknown tensor"),
        ({"handle.x1.unet": torch.ones(1, 4)}, "unknown tensor"),
        ({"handle.x y.clip_l": torch.ones(1, 4)}, "unknown tensor"),
        ({"handle.../../x.clip_l": torch.ones(1, 4)}, "unknown tensor"),
        ({"adapter.unet.out.2.gamma": torch.ones(1)}, "unknown tensor"),
        ({"adapter.__class__.diff": torch.ones(1)}, "unknown tensor"),
        ({"adapter.unet." + "a." * 50 + "diff": torch.ones(1)}, "unknown tensor"),
        ({"handle.x1.clip_l": torch.ones(1, 4).half()}, "float16"),
        ({"handle.x1.clip_l": torch.ones(4)}, r"\[4\]"),
        ({"handle.x1.clip_l": torch.ones(0, 4)}, r"\[0, 4\]"),
        ({"handle.x1.clip_l": torch.tensor([[float("nan")]])}, "NaN"),
        ({"handle.x1.clip_l": torch.tensor([[float("inf")]])}, "NaN"),
        ({"handle.X1.clip_l": torch.ones(1, 1), "handle.x1.clip_l": torch.ones(1, 1)}, "twice"),
        ({UP: torch.ones(4, 2)}, "no down"),
        ({DOWN: torch.ones(2, 4)}, "no up"),
        ({UP: torch.ones(4, 2), DOWN: torch.ones(3, 4)}, "do not fit"),
        ({UP: torch.ones(4, 0), DOWN: torch.ones(0, 4)}, "do not fit"),
        ({UP: torch.ones(2), DOWN: torch.ones(2, 4)}, "do not fit"),
        ({"adapter.unet.out.2.diff": torch.tensor(1.0)}, "impossible shape"),
        (
            {
                UP: torch.ones(4, 2),
                DOWN: torch.ones(2, 4),
                "adapter.unet.out.2.diff": torch.ones(4),
            },
            "both diff and up",
        ),
    ],
)
def test_odd_tensors_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], told: str
) -> None:
    path = tmp_path / "x.safetensors"
    write_document(path, tensors, sound_document())
    with pytest.raises(ConceptFileError, match=told):
        load_concept(path)
