"""Features of one pass put into another."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.attention.injection import (
    FeatureCapture,
    FeatureInjection,
    Features,
    InjectionBlocks,
    checked_blocks,
    default_blocks,
    feature_numbers,
    injected_steps,
)
from conceptloom.errors import ConfigError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import (
    ForwardInfo,
    Place,
    ResNetSite,
    StopForward,
    TransformerSite,
    UNetSites,
)

from ..tiny_models import FAMILIES, hooks_on, noise, tiny_host


@pytest.fixture(scope="module", params=FAMILIES)
def host(request: pytest.FixtureRequest) -> DiffusersHost:
    return tiny_host(request.param)


def decoder(attentions: list[int], resnets: int) -> UNetSites:
    up = [
        TransformerSite(f"output_blocks.{n}.1", Place.UP, n, 1, 8, 2, 1, None) for n in attentions
    ]
    down = [TransformerSite("input_blocks.1.1", Place.DOWN, 1, 1, 8, 2, 1, None)]
    module = torch.nn.Identity()
    every = [ResNetSite(f"output_blocks.{n}.0", Place.UP, n, 1, 8, module) for n in range(resnets)]
    return UNetSites((*down, *up), tuple(every))


def test_default_blocks_are_the_papers_on_sd_and_as_deep_on_sdxl() -> None:
    assert default_blocks(decoder([*range(3, 12)], 12)) == InjectionBlocks((4,), (4, 7, 9))
    assert default_blocks(decoder([*range(6)], 9)) == InjectionBlocks((1,), (1, 3, 4))
    assert default_blocks(decoder([0, 1, 2, 3], 4)) == InjectionBlocks((0,), (0, 2, 3))


def test_blocks_that_the_model_lacks_are_refused() -> None:
    sites = decoder([0, 1, 2, 3], 4)
    assert checked_blocks(InjectionBlocks((0, 3), ()), sites).resnets == (0, 3)
    with pytest.raises(ConfigError, match="resnet_blocks is 4; it must be among 0, 1, 2, 3"):
        checked_blocks(InjectionBlocks((4,), ()), sites)
    with pytest.raises(ConfigError, match="attention_blocks is 9"):
        checked_blocks(InjectionBlocks((), (0, 9)), sites)


def test_a_threshold_counts_whole_steps() -> None:
    assert injected_steps(0.8, 50) == 40
    assert injected_steps(0.5, 50) == 25
    assert [injected_steps(x, 7) for x in (0, 1)] == [0, 7]


def predict(host: DiffusersHost, text: str, *edits: Any, rows: int = 1, seed: int = 0) -> Tensor:
    prompt, at = host.encode_prompt(text), torch.full((rows,), 300)
    with torch.no_grad():
        point = noise(1, 4, 16, 16, seed=seed).expand(rows, -1, -1, -1)
        return host.predict(point, at, [prompt], edits)


def captured(host: DiffusersHost, blocks: InjectionBlocks, **more: bool) -> Features:
    capture = FeatureCapture(blocks.sites(host.sites), **more)
    with contextlib.suppress(StopForward):
        predict(host, "a template", capture, seed=7)
    return dict(capture.features)


def injection(blocks: InjectionBlocks, features: Features, step: int = 0, **steps: int) -> Any:
    asked: list[int] = []

    def features_at(at: int) -> Features:
        asked.append(at)
        return features

    edit = FeatureInjection(
        blocks, lambda info: step, features_at, **{"resnet_steps": 4, "attention_steps": 2, **steps}
    )
    return edit, asked


def everywhere(host: DiffusersHost) -> InjectionBlocks:
    up = [s.number for s in host.sites.transformers if s.place is Place.UP]
    return InjectionBlocks(tuple(up[:1]), tuple(up))


def test_its_own_features_change_nothing(host: DiffusersHost) -> None:
    features = captured(host, everywhere(host))
    edit, _ = injection(everywhere(host), features)
    plain = predict(host, "a template", seed=7)
    assert torch.equal(predict(host, "a template", edit, seed=7), plain)


def test_another_templates_features_reach_every_row(host: DiffusersHost) -> None:
    edit, asked = injection(everywhere(host), captured(host, everywhere(host)))
    plain = predict(host, "a cat", rows=3)
    found = predict(host, "a cat", edit, rows=3)
    assert asked == [0]
    assert not torch.allclose(found, plain, atol=1e-3)
    torch.testing.assert_close(found[0], found[2])


def test_gradients_pass_by_features_that_a_node_kept(host: DiffusersHost) -> None:
    with torch.inference_mode():
        features = captured(host, everywhere(host))
    edit, _ = injection(everywhere(host), features)
    point = noise(1, 4, 16, 16).requires_grad_()
    prompt = host.encode_prompt("a cat")
    with host.edited({}, trainable=True):
        host.predict(point, torch.tensor([300]), [prompt], [edit]).square().sum().backward()
    assert point.grad is not None
    assert point.grad.isfinite().all()


def test_what_stands_in_the_template_is_what_is_used(host: DiffusersHost) -> None:
    blocks = everywhere(host)
    features = captured(host, blocks)
    edit, _ = injection(blocks, features)
    seen = FeatureCapture(blocks.sites(host.sites))
    predict(host, "a cat", edit, seen)
    for key, value in features.items():
        assert torch.equal(seen.features[key], value), key


def test_thresholds_end_each_kind_by_itself(host: DiffusersHost) -> None:
    blocks = everywhere(host)
    features = captured(host, blocks)
    by_step = [predict(host, "a cat", injection(blocks, features, step)[0]) for step in range(5)]
    only_resnets = injection(blocks, features, 1, attention_steps=0)[0]
    assert torch.equal(by_step[0], by_step[1])
    assert torch.equal(by_step[2], predict(host, "a cat", only_resnets))
    assert torch.equal(by_step[2], by_step[3])
    assert torch.equal(by_step[4], predict(host, "a cat"))
    assert not torch.equal(by_step[0], by_step[2])


def test_thresholds_of_zero_are_plain_sampling_and_ask_for_nothing(host: DiffusersHost) -> None:
    edit, asked = injection(everywhere(host), {}, resnet_steps=0, attention_steps=0)
    assert torch.equal(predict(host, "a cat", edit), predict(host, "a cat"))
    assert asked == []


def test_capturing_can_end_the_pass_and_leaves_no_hook(host: DiffusersHost) -> None:
    before, blocks = hooks_on(host), everywhere(host)
    whole, early = captured(host, blocks), captured(host, blocks, stop=True)
    assert whole.keys() == early.keys()
    assert all(torch.equal(whole[key], early[key]) for key in whole)
    capture = FeatureCapture(blocks.sites(host.sites, attentions=False), stop=True)
    with pytest.raises(StopForward):
        predict(host, "a cat", capture)
    assert hooks_on(host) == before


def test_the_size_reported_is_the_size_kept(host: DiffusersHost) -> None:
    blocks = everywhere(host)
    features = captured(host, blocks)
    resnets, attentions = feature_numbers(host.sites, blocks, (16, 16))
    kept = {kind: 0 for kind in ("resnet", "query", "key")}
    for (kind, _, _), value in features.items():
        kept[kind] += value.numel()
    assert kept["resnet"] == resnets
    assert kept["query"] + kept["key"] == attentions


def test_a_step_is_known_from_the_pass() -> None:
    seen: list[ForwardInfo] = []

    def step_of(info: ForwardInfo) -> int:
        seen.append(info)
        return 9

    host = tiny_host()
    edit = FeatureInjection(
        default_blocks(host.sites), step_of, lambda step: {}, resnet_steps=9, attention_steps=9
    )
    predict(host, "a cat", edit)
    assert [float(info.timesteps[0]) for info in seen] == [300]
