"""RoI matching and concept discovery: only w* learns, maps are cleaned as told, models stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conceptloom.concepts.concept import Concept, Diff
from conceptloom.errors import HandleError, ImageError, MaskError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic.discovery import DISCOVERY, DiscoveryConfig, discover
from conceptloom.methods.clic.matching import (
    REGION,
    ROI_MATCHING,
    MatchConfig,
    ReadConfig,
    clean,
    learn_region,
    match_regions,
    read_heat,
    read_matches,
    vectors_of,
)
from conceptloom.training.adapters import Scope
from conceptloom.training.phases import TokenPhase, WeightPhase

from ..tiny_models import assert_unchanged, noise, snapshot, tiny_host

SIDE = 32
READ = ReadConfig(steps=2)
QUICK = MatchConfig(
    learning=replace(
        ROI_MATCHING,
        token_phase=TokenPhase(steps=2, learning_rate=1e-2),
        object_word="chair",
        views=1,
    ),
    reading=READ,
)
WEIGHT = "unet.middle_block.1.transformer_blocks.0.attn2.to_v.weight"


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(seed))


def mask() -> torch.Tensor:
    found = torch.zeros(SIDE, SIDE)
    found[8:20, 8:20] = 1
    return found


def learned(host: DiffusersHost, *names: str) -> Concept:
    return Concept(
        handles={name: {"clip_l": noise(1, 16)} for name in names or ("mark",)},
        weights={WEIGHT: Diff(0.1 * noise(*host.weight(WEIGHT).shape))},
        base=host.fingerprint,
        method="clic",
    )


def test_a_mask_and_a_heat_map_for_every_target(host: DiffusersHost):
    before, told = snapshot(host), []
    targets = [picture(1), picture(2)]
    found = match_regions(
        host, learned(host), picture(), mask(), targets, QUICK,
        progress=lambda step, total, *_: told.append((step, total)),
    )  # fmt: skip
    assert_unchanged(before, host)
    assert (2, 2) in told
    assert told[-1] == (2 * READ.steps - 1, 2 * READ.steps)
    for match in found:
        assert match.mask.shape == match.heat.shape == (SIDE, SIDE)
        assert set(match.mask.unique().tolist()) <= {0.0, 1.0}
        assert 0 <= match.heat.min() <= match.heat.max() <= 1
    assert not torch.equal(found[0].heat, found[1].heat)
    again = match_regions(host, learned(host), picture(), mask(), targets, QUICK)
    assert torch.equal(found[0].heat, again[0].heat)


def test_the_new_word_starts_from_the_learned_one_and_alone_learns(host: DiffusersHost):
    start = vectors_of(learned(host), "<mark>")
    before = start["clip_l"].clone()
    word = learn_region(host, start, picture(), mask(), QUICK)
    assert torch.equal(start["clip_l"], before)
    moved = (word[REGION]["clip_l"] - before).abs().max()
    assert 0 < moved < 0.05  # two steps of Adam


def test_learning_brings_the_attention_to_the_mask(host: DiffusersHost):
    phase = TokenPhase(steps=10, learning_rate=5e-2)
    longer = replace(
        QUICK, learning=replace(QUICK.learning, token_phase=phase, flip=0.0, brightness=0.0)
    )
    text = longer.learning.prompt_of(REGION)
    start = vectors_of(learned(host), "")
    inside = []
    for vectors in ({REGION: start}, learn_region(host, start, picture(), mask(), longer)):
        prompt = host.encode_prompt(text, vectors)
        heat = read_heat(host, picture(), prompt, REGION, READ)
        rows = mask()[::2, ::2]
        inside.append(float((heat * rows).sum() / heat.sum()))
    assert inside[1] > inside[0]


def stopping_at(step: int):
    def stop(done: int, total: int, message: str = "", *_: object) -> None:
        if done == step and "loss" in message:
            raise KeyboardInterrupt

    return stop


def learning_into(steps: list[int]):
    def progress(done: int, total: int, message: str = "", *_: object) -> None:
        if "loss" in message:
            steps.append(done)

    return progress


def test_a_cancelled_match_goes_on_where_it_was(host: DiffusersHost, tmp_path: Path):
    given = (host, learned(host), picture(), mask(), [picture(1)], QUICK)
    with pytest.raises(KeyboardInterrupt):
        match_regions(*given, folder=tmp_path, progress=stopping_at(1))
    steps = list[int]()
    found = match_regions(*given, folder=tmp_path, progress=learning_into(steps))
    assert steps == [2]
    assert torch.equal(found[0].heat, match_regions(*given)[0].heat)
    other = learned(host)
    other = replace(other, weights={WEIGHT: Diff(2 * other.weights[WEIGHT].tensor)})
    steps.clear()
    match_regions(host, other, *given[2:], folder=tmp_path, progress=learning_into(steps))
    assert steps == [1, 2]  # another concept has a folder of its own


def test_a_cancelled_discovery_goes_on_where_it_was(host: DiffusersHost, tmp_path: Path):
    phase = WeightPhase(steps=2, learning_rate=1e-3, scope=Scope.CROSS_ATTENTION_KV)
    learning = replace(DISCOVERY, weight_phase=phase, object_word="apple", views=1)
    config = DiscoveryConfig(learning=replace(learning, accumulation=2), reading=READ)
    given, passes = (host, [picture(1), picture(2)], "shared", config), list[int]()
    with pytest.raises(KeyboardInterrupt):
        discover(*given, folder=tmp_path, progress=stopping_at(1))
    found = discover(*given, folder=tmp_path, progress=learning_into(passes))
    assert passes == [2]
    assert torch.equal(found.matches[0].heat, discover(*given).matches[0].heat)
    assert "an apple with <shared> style" in found.concept.prompts
    single = replace(config, learning=learning)
    assert not torch.equal(
        found.matches[0].heat, discover(*given[:3], single).matches[0].heat
    )  # accumulation is heard


def test_maps_are_cleaned_by_hand():
    heat = torch.zeros(8, 8)
    heat[2:6, 2:6] = 2.0
    heat[2:6, 5] = 1.0
    image = torch.zeros(8, 8, 3)
    config = ReadConfig(opening=0.0)
    match = clean(heat, image, config)
    # stretched 1 and 0.5; 0.5 is below 0.75, so 0.45, which is above 100/255
    assert match.heat[3, 3] == 1.0
    assert match.heat[3, 5].item() == pytest.approx(0.45)
    assert torch.equal(match.mask, (heat > 0).float())
    assert torch.equal(clean(heat, image, replace(config, threshold=0.5)).mask, (heat > 1).float())
    flat = clean(torch.full((8, 8), 0.3), image, config)
    assert not flat.mask.any()


def test_specks_are_opened_away():
    heat = torch.zeros(16, 16)
    heat[2:10, 2:10] = 1.0
    heat[13, 13] = 1.0
    match = clean(heat, torch.zeros(16, 16, 3), ReadConfig(opening=3 / 16))
    assert match.mask[13, 13] == 0
    assert match.mask[2:10, 2:10].all()


def test_a_word_is_read_in_the_picture_itself(host: DiffusersHost):
    prompt = host.encode_prompt("a <x> region", {"x": {"clip_l": noise(1, 16)}})
    first, second = (read_heat(host, picture(seed), prompt, "x", READ) for seed in (1, 2))
    assert first.shape == (16, 16)
    assert not torch.equal(first, second)
    assert torch.equal(first, read_heat(host, picture(1), prompt, "x", READ))
    once = read_heat(host, picture(1), prompt, "x", replace(READ, steps=1))
    assert float(once.mean()) == pytest.approx(float(first.mean()), rel=0.2)  # a mean, not a sum


def test_what_cannot_be_matched_is_reported(host: DiffusersHost):
    two = learned(host, "mark", "dot")
    with pytest.raises(HandleError, match="several handles; name one of <mark>, <dot>"):
        match_regions(host, two, picture(), mask(), [picture(1)], QUICK)
    with pytest.raises(HandleError, match="no handle <star>"):
        match_regions(host, two, picture(), mask(), [picture(1)], QUICK, name="<star>")
    with pytest.raises(MaskError, match="empty"):
        match_regions(host, learned(host), picture(), 0 * mask(), [picture(1)], QUICK)
    odd = torch.zeros(SIDE, SIDE + 1, 3)
    with pytest.raises(ImageError, match="multiples of 2"):
        match_regions(host, learned(host), picture(), mask(), [odd], QUICK)


def test_what_pictures_share_becomes_a_concept_with_its_places(host: DiffusersHost):
    before = snapshot(host)
    phase = WeightPhase(steps=2, learning_rate=1e-3, scope=Scope.CROSS_ATTENTION_KV)
    learning = replace(DISCOVERY, weight_phase=phase, object_word="chair", views=1)
    config = DiscoveryConfig(learning=learning, reading=READ)
    found = discover(host, [picture(1), picture(2)], "shared", config, word="swirl")
    assert_unchanged(before, host)
    assert found.concept.names == ["shared"]
    assert found.concept.weights
    assert "a chair with <shared> style" in found.concept.prompts
    assert set(found.concept.history) >= {"context"}
    assert not {"attention", "roi"} & set(found.concept.history)
    assert [match.mask.shape for match in found.matches] == [(SIDE, SIDE)] * 2
    with pytest.raises(ImageError, match="1 picture came"):
        discover(host, [picture(1)], "shared", config)
    with pytest.raises(ImageError, match="differ in size"):
        discover(host, [picture(1), picture(2)[:16]], "shared", config)


def test_looking_for_regions_stops_within_one_pass(host: DiffusersHost) -> None:
    prompt = host.encode_prompt("a cat", {})
    passes: list[tuple[int, int]] = []

    class Cancelled(Exception):
        pass

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        passes.append((step, total))
        if step == READ.steps + 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        read_matches(host, [picture(1), picture(2)], prompt, "x", READ, progress)
    assert passes == [(n, 2 * READ.steps) for n in range(READ.steps + 2)]
