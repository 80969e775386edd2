"""What each phase and scope of Break-A-Scene teaches, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import (
    BreakAScene,
)
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import LoopConfig, run, step_generator

from ..tiny_models import assert_unchanged, snapshot, tiny_host
from .break_a_scene_cases import config, latents, scene

SCOPES = {
    Scope.HANDLES: lambda name: False,
    Scope.CROSS_ATTENTION_KV: lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    Scope.CROSS_ATTENTION: lambda name: ".attn2." in name,
    Scope.FULL: lambda name: True,
}


def step_gradients(learner: BreakAScene, phase: int) -> dict[str, Tensor]:
    chosen = learner.phases()[phase]
    with learner.computing(chosen):
        for seed in range(4):  # some draw shows each concept
            terms = learner.losses(chosen, step_generator(seed, 0))
            torch.stack(list(terms.values())).sum().backward()
    named = learner.named_parameters()
    return {n: p.grad for n, p in named.items() if p.grad is not None and bool(p.grad.any())}


def without_gradient(host: DiffusersHost) -> bool:
    models = [host.unet, host.vae, *(e.model for e in host._encoders)]
    return all(p.grad is None for model in models for p in model.parameters())


@pytest.mark.parametrize("scope", list(SCOPES))
def test_gradients_reach_what_the_scope_says_and_nothing_else(
    host: DiffusersHost, scope: Scope
) -> None:
    learner = BreakAScene(host, scene(), config(scope=scope))
    learner.class_latents = latents(host)
    before = snapshot(host)
    handles = {"handle.mug.clip_l", "handle.cat.clip_l"}
    assert set(step_gradients(learner, 0)) == handles
    reached = set(step_gradients(learner, 1)) - handles
    wanted = {
        f"adapter.{name}.full"
        for name in host.weight_names()
        if SCOPES[scope](name.removeprefix("unet."))
    }
    # a bias of a key is the one thing that softmax cannot feel
    idle = {name for name in wanted - reached if "k_proj.bias" not in name}
    assert not reached - wanted
    assert not idle
    assert {n.removeprefix("adapter.") for n in learner.named_parameters() if "adapter" in n} == {
        n.removeprefix("adapter.") for n in wanted
    }
    assert without_gradient(host)
    assert_unchanged(before, host)


@pytest.mark.parametrize("scope", [Scope.LOW_RANK, Scope.PROJ_OUT])
def test_low_rank_scopes_learn_their_factors(host: DiffusersHost, scope: Scope) -> None:
    learner = BreakAScene(host, scene(), config(scope=scope, rank=3))
    reached = set(step_gradients(learner, 1))
    ups = {name for name in learner.named_parameters() if name.endswith(".up")}
    assert ups
    assert ups <= reached  # `down` waits for `up` to leave zero
    assert {p.shape[1] for n, p in learner.named_parameters().items() if n in ups} <= {3}
    assert without_gradient(host)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_every_family_learns(family: str) -> None:
    host = tiny_host(family, velocity=family == "sd2")
    before = snapshot(host)
    host.encode_prompt("")
    learner = BreakAScene(host, scene(), config(2, 2, scope=Scope.CROSS_ATTENTION_KV))
    learner.class_latents = latents(host)
    start = {name: p.detach().clone() for name, p in learner.named_parameters().items()}
    run(learner, LoopConfig())
    still = [n for n, p in learner.named_parameters().items() if torch.equal(p, start[n])]
    assert not still
    before["hooks"] = snapshot(host)["hooks"]  # transformers leaves some of its own
    assert_unchanged(before, host)


def test_the_first_phase_leaves_every_weight_as_it_was(host: DiffusersHost) -> None:
    learner = BreakAScene(host, scene(), config(3, 1, scope=Scope.FULL))
    start = {name: p.detach().clone() for name, p in learner.named_parameters().items()}
    before, moved = snapshot(host), []

    class Stop(Exception):
        pass

    def progress(step: int, total: int, *rest: object) -> None:
        if step == 3:
            moved.extend(
                n for n, p in learner.named_parameters().items() if not torch.equal(p, start[n])
            )
            raise Stop

    from conceptloom.training.recipe import Events

    with pytest.raises(Stop):
        run(learner, LoopConfig(), Events(progress))
    assert set(moved) == {"handle.mug.clip_l", "handle.cat.clip_l"}
    assert_unchanged(before, host)


def test_checkpointing_learns_the_same(host: DiffusersHost) -> None:
    learner = BreakAScene(host, scene(), config(checkpointing=True, scope=Scope.FULL))
    with learner.computing(learner.phases()[1]):
        assert host.unet.is_gradient_checkpointing
    plain = BreakAScene(host, scene(), config(scope=Scope.FULL))
    ours, theirs = step_gradients(learner, 1), step_gradients(plain, 1)
    assert set(ours) == set(theirs)
    for name, grad in theirs.items():
        assert torch.allclose(ours[name], grad, rtol=1e-3, atol=1e-6), name


def test_stepping_down_gives_rows_first_and_activations_next(host: DiffusersHost) -> None:
    learner = BreakAScene(host, scene(), config(batch_size=2))
    first = learner.step_down()
    assert first is not None
    assert (first.passes, "2 passes" in first.message) == (2, True)
    second = learner.step_down()
    assert second is not None
    assert (second.passes, "gradient checkpointing is on" in second.message) == (1, True)
    with learner.computing(learner.phases()[0]):
        assert host.unet.is_gradient_checkpointing
    assert learner.step_down() is None
