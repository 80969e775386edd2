"""Concepts apply to models of their shapes, whatever these predict and however they are sampled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from test_lag import concept_of, lag, sample
from tiny_models import Graph, graph_of

from conceptloom.attention.lag_config import LagConfig
from conceptloom.errors import BaseMismatchError, UnsupportedModelError
from conceptloom.methods.personalized_residuals import Localised
from conceptloom.nodes.lag import with_lag
from conceptloom.nodes.shared import applied, host_of


def lcm(model: Any) -> Any:
    return ModelSamplingDiscrete().patch(model, "lcm", False)[0]


def x0(model: Any) -> Any:
    return ModelSamplingDiscrete().patch(model, "x0", False)[0]


def velocity(model: Any) -> Any:
    return ModelSamplingDiscrete().patch(model, "v_prediction", True)[0]


def edm(model: Any) -> Any:
    return ModelSamplingContinuousEDM().patch(model, "edm_playground_v2.5", 120.0, 0.002)[0]


def continuous_v(model: Any) -> Any:
    return ModelSamplingContinuousEDM().patch(model, "v_prediction", 500.0, 0.03)[0]


Make = Callable[[Any], Any]
WAYS = (lcm, x0, velocity, edm, continuous_v)


@pytest.mark.parametrize("way", WAYS)
def test_the_order_of_nodes_does_not_matter(sd1: Graph, way: Make):
    concept, resampled = concept_of(sd1), Graph(way(sd1.model), sd1.clip, None)
    model, clip = lag(resampled, concept)
    behind = way(lag(sd1, concept)[0])
    first = sample(model, clip)
    assert first.isfinite().all()
    assert torch.equal(sample(behind, clip), first)
    assert not torch.allclose(first, sample(resampled.model, clip), atol=1e-3)
    model, clip = applied(resampled.model, sd1.clip, concept, 1.0)
    behind = way(applied(sd1.model, sd1.clip, concept, 1.0)[0])
    assert torch.equal(sample(behind, clip), sample(model, clip))


@pytest.mark.parametrize("way", WAYS)
def test_a_share_of_the_schedule_is_one_of_the_way_to_the_picture(sd1: Graph, way: Make):
    shares: list[int] = []
    given = Localised(concept=concept_of(sd1), config=LagConfig(end=0.5))
    model, clip = with_lag(
        way(sd1.model), sd1.clip, [given], lambda _, __, info: shares.append(info.timesteps[0])
    )
    sample(model, clip, steps=6)
    steps = sorted({float(share) for share in shares}, reverse=True)
    assert 0 < len(steps) < 6, "it begins with the first step and ends before the last"
    assert steps[0] == pytest.approx(999, abs=1)
    assert all(step >= 499 for step in steps)


def test_learning_still_asks_for_what_it_needs(sd1: Graph):
    for way in (lcm, x0, edm, continuous_v):
        with pytest.raises(UnsupportedModelError):
            host_of(way(sd1.model), sd1.clip)


def test_another_parameterisation_is_reported_and_another_family_refused(
    sd1: Graph, caplog: pytest.LogCaptureFixture
):
    concept = concept_of(sd1)
    with caplog.at_level(logging.WARNING, "conceptloom"):
        applied(sd1.model, sd1.clip, concept, 1.0)
        assert not caplog.text
        applied(velocity(sd1.model), sd1.clip, concept, 1.0)
        assert (
            "trained on a model that predicts noise (eps), but this one predicts vel" in caplog.text
        )
        caplog.clear()
        lag(Graph(velocity(sd1.model), sd1.clip, None), concept)
        assert "The shapes fit" in caplog.text
    sdxl = graph_of("sdxl")
    for host_like in (sdxl, Graph(velocity(sdxl.model), sdxl.clip, None)):
        with pytest.raises(BaseMismatchError):
            applied(host_like.model, host_like.clip, concept, 1.0)
    pruned = {n.replace("input_blocks.1", "input_blocks.99"): w for n, w in concept.weights.items()}
    with pytest.raises(BaseMismatchError, match="no such layer"):
        lag(sd1, replace(concept, weights=pruned))
