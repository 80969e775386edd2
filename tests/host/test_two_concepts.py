"""Two concepts under one handle: one rule for every way of applying them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_lag import concept_of, sample
from tiny_models import Graph

from conceptloom.attention.lag_config import LagConfig
from conceptloom.concepts.concept import Concept, renamed, stacked
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.errors import ConfigError, HandleError
from conceptloom.host.comfyui.apply import check_new_handles
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.methods.personalized_residuals import Localised
from conceptloom.nodes.lag import with_lag
from conceptloom.nodes.shared import applied

Way = Callable[[Any, Any, Concept], tuple[Any, Any]]


def everywhere(model: Any, clip: Any, concept: Concept, strength: float = 1.0) -> tuple[Any, Any]:
    return applied(model, clip, concept, strength)


def localised(model: Any, clip: Any, concept: Concept, strength: float = 1.0) -> tuple[Any, Any]:
    config = LagConfig(strength=strength)
    return with_lag(model, clip, [Localised(concept=concept, config=config)])


WAYS = {"Apply Concept": everywhere, "Apply LAG": localised}
PAIRS = [(first, second) for first in WAYS.values() for second in WAYS.values()]
NAMES = [f"{first}, {second}" for first in WAYS for second in WAYS]
pairs = pytest.mark.parametrize(("first", "second"), PAIRS, ids=NAMES)


@pairs
@pytest.mark.parametrize("other", ["my-cat", "My-Cat"])
def test_another_concept_under_a_known_name_is_refused(
    sd1: Graph, first: Way, second: Way, other: str
):
    one, two = concept_of(sd1), renamed(concept_of(sd1, "toy", "dog"), {"toy": other})
    model, clip = first(sd1.model, sd1.clip, one)
    with pytest.raises(HandleError, match=rf"rename of Load Concept.*{other}.*--concept FILE:"):
        second(model, clip, two)
    with pytest.raises(HandleError):  # one of the two sockets comes from elsewhere
        second(model, sd1.clip, two)
    with pytest.raises(HandleError):
        second(sd1.model, clip, two)
    second(model, clip, renamed(two, {other: "my-toy"}))


def test_residuals_alone_make_another_concept(sd1: Graph):
    """A rare token's vector may be the same in both."""
    one = concept_of(sd1)
    two = replace(one, weights=concept_of(sd1, size=0.1).weights)
    with pytest.raises(HandleError):
        everywhere(*everywhere(sd1.model, sd1.clip, one), two)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_the_same_concept_twice_is_strength_two(sd1: Graph, tmp_path: Path, way: Any):
    concept = concept_of(sd1)
    save_concept(concept, tmp_path / "cat.safetensors")
    again = load_concept(tmp_path / "cat.safetensors")
    twice = sample(*way(*way(sd1.model, sd1.clip, concept), again))
    once, whole = (sample(*way(sd1.model, sd1.clip, concept, s)) for s in (1.0, 2.0))
    torch.testing.assert_close(twice, whole, rtol=1e-2, atol=2e-3)  # sums in another order
    assert not torch.allclose(twice, once, atol=1e-2)


def test_lag_twice_with_other_settings_is_refused(sd1: Graph):
    concept, mask = concept_of(sd1), torch.ones(8, 10)
    for other in (LagConfig(quantile=0.3), LagConfig(localised=False)):
        given = [Localised(concept=concept), Localised(concept=concept, config=other)]
        with pytest.raises(ConfigError, match="twice with different settings"):
            with_lag(sd1.model, sd1.clip, given)
    masked = Localised(concept=concept, mask=mask)
    with pytest.raises(ConfigError, match="twice"):
        with_lag(sd1.model, sd1.clip, [masked, Localised(concept=concept)])
    with_lag(sd1.model, sd1.clip, [masked, replace(masked, mask=mask.clone())])


def test_the_order_of_two_concepts_changes_nothing(sd1: Graph):
    one, two = concept_of(sd1), concept_of(sd1, "my-toy", "dog")
    text = "a <my-cat> cat and a <my-toy> dog"
    pictures = [
        sample(*everywhere(*everywhere(sd1.model, sd1.clip, a), b), text)
        for a, b in ((one, two), (two, one))
    ]
    torch.testing.assert_close(*pictures, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_a_known_name_is_not_learned_anew(sd1: Graph, way: Way):
    """Told before the first step, and not when the learned concept is handed out."""
    model, clip = way(sd1.model, sd1.clip, concept_of(sd1))
    for one, other in ((model, clip), (sd1.model, clip), (model, sd1.clip)):
        with pytest.raises(HandleError, match="<MY-cat>"):
            check_new_handles(one, other, ["MY-cat"])
        check_new_handles(one, other, ["my-dog"])
    host = ComfyHost(model, clip)
    known = concept_of(sd1).handles
    host.encode_prompt("<my-cat>", known)
    with pytest.raises(HandleError):
        host.encode_prompt("<my-cat>", {"my-cat": {e: v + 1 for e, v in known["my-cat"].items()}})


def test_a_new_name_goes_through_lag_as_the_old_one(sd1: Graph):
    concept = concept_of(sd1)
    new = renamed(concept, {"my-cat": "other"})
    text = "a photo of a <other> cat"
    assert new.prompts == (text,)
    expected = sample(*localised(sd1.model, sd1.clip, concept))
    assert torch.equal(sample(*localised(sd1.model, sd1.clip, new), text), expected)
    both = stacked([(concept, 1.0), (new, 1.0)])
    assert set(both.handles) == {"my-cat", "other"}
