"""Concepts for the bank: K and V only, the loss where the picture lies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conceptloom.attention.start_token import StartDetached
from conceptloom.concepts.concept import Concept
from conceptloom.errors import ConfigError
from conceptloom.methods.concept_weaver import BankConfig, learn_for_bank
from conceptloom.methods.concept_weaver.bank import BankRecipe, valid_latents, valid_loss
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.training.adapters import Scope
from conceptloom.training.phases import TokenPhase, WeightPhase
from conceptloom.training.previews import PreviewConfig

from ..tiny_models import assert_unchanged, snapshot, tiny_host

QUICK = PreviewConfig(steps=1, cfg=1.0)


def brief(steps: int = 2, **more: object) -> BankConfig:
    phase = WeightPhase(steps=steps, learning_rate=1e-2, scope=Scope.CROSS_ATTENTION_KV)
    return BankConfig(weight_phase=phase, views=2, **more)


def one_cup() -> ConceptScene:
    image = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))
    return make_scene([image], {"my-cup": [torch.ones(32, 32)]}, {"my-cup": "cup"})


def same(one: Concept, other: Concept) -> bool:
    vectors = (c.handles["my-cup"]["clip_l"] for c in (one, other))
    return torch.equal(*vectors)


def test_only_what_is_valid_counts_and_its_area_does_not() -> None:
    predicted, noise = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    predicted[0, :, 0, 0], predicted[0, :, 1, 1] = 3.0, 100.0
    valid = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert valid_loss(predicted, noise, valid).item() == 9.0
    valid[0, 0, 0, 1], predicted[0, :, 0, 1] = 1, 3.0
    assert valid_loss(predicted, noise, valid).item() == 9.0


def test_latents_at_the_canvas_do_not_count() -> None:
    valid = torch.zeros(16, 16)
    valid[:10, :] = 1
    found = valid_latents(valid, torch.zeros(4, 8, 8))[0]
    assert found[1:4, 1:-1].eq(1).all()
    assert found.sum() == 3 * 6


def test_start_tokens_teach_keys_and_values_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    host, given = tiny_host(), []
    recipe, predict = BankRecipe(host, one_cup(), brief()), host.predict

    def watched(latent, timesteps, prompts, edits=()):
        given.extend(edits)
        return predict(latent, timesteps, prompts, edits)

    monkeypatch.setattr(host, "predict", watched)
    phase = recipe.phases()[-1]
    with recipe.computing(phase):
        recipe.losses(phase, torch.Generator().manual_seed(0))["diffusion"].backward()
    assert [type(edit) for edit in given] == [StartDetached]
    assert any(p.grad is not None and p.grad.any() for p in recipe.adapters.parameters())


def test_a_concept_of_keys_and_values_is_learned_and_the_model_stays() -> None:
    host = tiny_host()
    before = snapshot(host)
    learned = learn_for_bank(host, one_cup(), brief(), previews=QUICK)
    assert_unchanged(before, host)
    concept = learned.concept
    assert concept.prompts == ("photo of a <my-cup> cup",)
    assert concept.weights
    assert all(
        name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in concept.weights
    )
    assert [sorted(row) for row in learned.history] == 2 * [sorted(learned.history[0])]
    again = learn_for_bank(host, one_cup(), brief(), previews=QUICK)
    assert same(again.concept, concept)


def test_a_cancelled_run_goes_on_to_the_same_concept(tmp_path: Path) -> None:
    host = tiny_host()
    whole = learn_for_bank(host, one_cup(), brief(4), previews=QUICK).concept
    before = snapshot(host)

    def stop_at_two(step: int, total: int, message: str = "", preview: object = None) -> None:
        if step == 2 and "loss" in message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_for_bank(
            host, one_cup(), brief(4), previews=QUICK, folder=tmp_path, progress=stop_at_two
        )
    assert_unchanged(before, host)
    steps: list[int] = []

    def hear(step: int, total: int, message: str = "", preview: object = None) -> None:
        if "loss" in message:  # and not the pictures at the end
            steps.append(step)

    resumed = learn_for_bank(
        host, one_cup(), brief(4), previews=QUICK, folder=tmp_path, progress=hear
    )
    assert same(resumed.concept, whole)
    assert steps == [3, 4]


def test_a_phase_of_names_alone_leaves_the_model_out() -> None:
    config = brief(0, token_phase=TokenPhase(steps=2, learning_rate=1e-2))
    assert not learn_for_bank(tiny_host(), one_cup(), config, previews=QUICK).concept.weights


def test_mirrored_copies_are_others() -> None:
    host = tiny_host()
    plain, mirrored = (BankRecipe(host, one_cup(), brief(flip=flip)) for flip in (0.0, 1.0))
    assert not torch.allclose(plain._views[0][0][0], mirrored._views[0][0][0])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prompt": "a photo"}, "contains {handle}"),
        (
            {"weight_phase": WeightPhase(steps=0)},
            r"token_steps \+ weight_steps is 0; it must be 1 or more",
        ),
        ({"weight_phase": WeightPhase(scope=Scope.FULL)}, "cannot separate other changes"),
        ({"smallest": 2.0}, "between 0.05 and 1"),
        ({"views": 0}, "whole number between 1 and 256"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        BankConfig(**wrong)
