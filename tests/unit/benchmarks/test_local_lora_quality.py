"""The comparison of localised LoRAs: LoRAs of a plain loop, ways that differ, one engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness.experiment import Cell
from quality import local_ways, lora_training
from quality.local_lora import LocalLoraExperiment, _changed, _sentence, budgets
from quality.local_ways import ABLATIONS, ALONE, LOCAL, MAIN, MERGED, SAME_PROMPT, WAYS, Picture
from quality.lora_training import Training, local_lora, trained
from quality.tasks import LORA_SETS, LORAS, TUNING_SETS
from quality.world import PICTURE, open_model

from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.host.ports import Host
from conceptloom.samplers.ddim import seeded_noise

STRONG = Training(steps=2, batch_size=1, rank=2, rate=0.3, text_rate=0.3)
NAMES = ("mug2", "house2")


@pytest.fixture(scope="module")
def host() -> Host:
    return open_model()


@pytest.fixture(scope="module")
def loras(host: Host, tmp_path_factory: pytest.TempPathFactory) -> list[LocalLora]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora_training, "STORE", tmp_path_factory.mktemp("loras"))
        config = LocalConfig(found_after=0.5)
        return [local_lora(host, "model", LORAS[name], STRONG, config) for name in NAMES]


def picture(host: Host, count: int = 1) -> Picture:
    text = _sentence(NAMES, "on the grass", plain=False)
    noise = seeded_noise(host, 3, count, PICTURE)
    truth = torch.zeros(count, len(NAMES), *noise.shape[-2:])
    truth[:, 0, :, :8] = truth[:, 1, :, 8:] = 1
    return Picture(host, text, noise, 6, truth)


def test_the_plain_loop_learns_and_every_key_of_its_files_is_read(loras: list[LocalLora]):
    for lora in loras:
        assert lora.file.unmatched == ()
        assert lora.file.unet
        assert lora.file.text
        assert any(float(form.up.abs().max()) > 0 for form in lora.file.unet.values())


def test_a_lora_is_trained_once_and_the_same_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lora_training, "STORE", tmp_path)
    short, task = replace(STRONG, steps=1), LORAS["mug2"]
    first = local_lora(host, "model", task, short, LocalConfig())
    again = trained(task, short)
    monkeypatch.setattr(lora_training, "trained", None)
    kept = local_lora(host, "model", task, short, LocalConfig())
    assert kept.file.identity == first.file.identity
    for name, form in first.file.changes.items():
        assert torch.equal(form.up, kept.file.changes[name].up)
    assert len(again) == 2 * len(first.file.changes)


@pytest.fixture(scope="module")
def drawn(host: Host, loras: list[LocalLora]) -> dict[str, torch.Tensor]:
    """Latents of every way but those that differ in settings alone."""
    torch.set_num_threads(1)
    usual = {name: way for name, way in WAYS.items() if way.config == LocalConfig()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_ways, "SEEN_AFTER", 2)
        return {name: way.draw(picture(host), loras) for name, way in usual.items()}


def test_every_ingredient_that_is_taken_out_changes_the_picture(drawn: dict[str, torch.Tensor]):
    assert not torch.equal(drawn[LOCAL], drawn[SAME_PROMPT])
    for name in set(ABLATIONS) & set(drawn):
        assert not torch.equal(drawn[name], drawn[LOCAL]), name


def test_the_ways_that_are_compared_are_several(drawn: dict[str, torch.Tensor]):
    ways = [n for n in MAIN if n in drawn and not WAYS[n].alone and not WAYS[n].plain]
    for i, name in enumerate(ways):
        for other in ways[:i]:
            assert not torch.equal(drawn[name], drawn[other]), (name, other)


def test_hooks_under_a_mask_of_ones_come_near_the_merged_lora(host: Host, loras: list[LocalLora]):
    one = picture(host)
    whole = replace(one, truth=torch.ones_like(one.truth[:, :1]))
    merged = MAIN[MERGED].draw(whole, loras[:1])
    hooked = local_ways.hooked(late=False)(whole, loras[:1])
    plain = MAIN[SAME_PROMPT].draw(whole, loras[:1])
    # not equal: rows of the negative prompt stay the base model's
    assert float((merged - hooked).abs().mean()) < float((merged - plain).abs().mean())


def test_first_of_all_everything_is_compared_then_ingredients_are_taken_out(
    host: Host, tmp_path: Path
):
    ways = [*MAIN, *ABLATIONS]
    made = LocalLoraExperiment(host, "model", budgets()["full"], tmp_path, 2, LORA_SETS, ways)
    cells = list(made.cells())
    assert len(cells) == len(set(cells)) == 2 * len(LORA_SETS) * len(ways)
    assert {cell.variant for cell in cells[: 2 * len(LORA_SETS) * len(MAIN)]} == set(MAIN)
    assert cells[0] == Cell(LORA_SETS[0].name, 0, SAME_PROMPT)


def test_settings_are_chosen_on_scenes_that_no_table_shows():
    shown = {member for one in LORA_SETS for member in one.members}
    assert not shown & {member for one in TUNING_SETS for member in one.members}
    assert {len(one.members) for one in LORA_SETS} == {2, 3, 4}
    assert len(LORA_SETS) >= 6


def test_prompts_name_all_and_the_plain_one_has_no_triggers():
    three = ("mug2", "cat3", "blue ball")
    assert _sentence(three, "on the grass", plain=False) == (
        "a photo of a zeb orange mug, a vux green cat and a blue ball on the grass"
    )
    assert _sentence(three, "on the grass", plain=True) == (
        "a photo of an orange mug, a green cat and a blue ball on the grass"
    )


def test_a_picture_has_not_changed_against_itself():
    grey = torch.full((128, 128, 3), 127, dtype=torch.uint8)
    assert _changed(grey, grey) == [0.0]
    assert _changed(grey, grey + 10)[0] == pytest.approx(10)


def test_alone_draws_each_lora_without_the_others():
    assert MAIN[ALONE].alone
    assert not MAIN[LOCAL].alone
