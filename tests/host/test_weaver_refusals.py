"""What Concept Weaver's nodes refuse, and what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from executor import Executor, given
from tiny_models import Graph
from weaver_graphs import IMAGE, MASKS, SIDE, concept, run, woven

pytestmark = pytest.mark.usefixtures("folders")


@pytest.mark.parametrize(
    ("changes", "values", "kind", "told"),
    [
        ({}, {"masks": torch.zeros(2, SIDE, SIDE)}, "MaskError", "region of <my-cup> is empty"),
        ({}, {"masks": MASKS[:1]}, "MaskError", "1 masks came for 2 concepts"),
        ({}, {"masks": MASKS.repeat(2, 1, 1)}, "MaskError", "4 masks came for 2 concepts"),
        ({"words": "cup"}, {}, "ConfigError", "one line for each of the 2 concepts"),
        ({"words": "cup\nlamp"}, {}, "PromptError", "does not contain 'lamp'"),
        ({"words": "cup: a cup\ntoy"}, {}, "PromptError", "does not contain <my-cup>"),
        ({}, {"masks": MASKS[:, ::2]}, "MaskError", "but the template is 64x64 px"),
        ({}, {"image": IMAGE.repeat(2, 1, 1, 1)}, "ImageError", "a template is one picture"),
    ],
)
def test_bad_regions_are_refused(
    executor: Executor, changes: dict, values: dict, kind: str, told: str
):
    result = run(executor, regions=changes, values=values)
    assert result.kind == kind
    assert told in result.error


def test_concepts_of_another_kind_are_refused(executor: Executor):
    foreign = replace(concept("sd1", "my-cup"), base="another model")
    result = run(executor, values={"cup": foreign})
    assert result.kind == "BaseMismatchError"
    assert "trained on the base model [another model]" in result.error


def test_templates_of_another_model_size_or_sigmas_are_refused(executor: Executor, sd1: Graph):
    template = run(executor, invert={"prompt": "a picture of its own"}).values["template"]
    other = replace(template, model="another checkpoint")
    given_template = {"template": given("template")}
    result = run(executor, values={"template": other}, fuse=given_template, regions=given_template)
    assert result.kind == "BaseMismatchError"
    assert "the same family, another checkpoint" in result.error
    more = {"sigmas": given("sigmas"), "latent_image": given("latent")}
    values = {"sigmas": template.sigmas, "latent": {"samples": torch.ones(1, 4, 8, 10)}}
    result = woven(executor, values=values, sampler=more)
    assert result.kind == "ImageError"
    assert "connect the template's latent" in result.error
    values["sigmas"] = template.sigmas * 1.2
    result = woven(executor, values=values, sampler=more)
    assert result.kind == "ConfigError"
    assert "those of the template" in result.error
    for name in ("resnet_blocks", "attention_blocks"):
        assert f"{name} is 77" in run(executor, invert={name: "77"}).error
