"""What CLiC teaches, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import CLiC
from conceptloom.training.loop import LoopConfig, run, step_generator

from ..tiny_models import assert_unchanged, snapshot, tiny_host
from .clic_cases import config, scene, terms_of


def step_gradients(learner: CLiC, phase: int = 1) -> dict[str, Tensor]:
    chosen = learner.phases()[phase]
    for parameter in learner.named_parameters().values():
        parameter.grad = None
    with learner.computing(chosen):
        terms = learner.losses(chosen, step_generator(0, 0))
        torch.stack(list(terms.values())).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in learner.named_parameters().items()
        if parameter.grad is not None and bool(parameter.grad.any())
    }


def test_gradients_reach_handle_and_cross_attention_and_nothing_else(host: DiffusersHost) -> None:
    before = snapshot(host)
    learner = CLiC(host, scene(), config())
    reached = set(step_gradients(learner))
    wanted = {f"adapter.{n}.full" for n in host.weight_names() if ".attn2.to_" in n}
    assert reached == {"handle.mark.clip_l", *wanted}
    assert {name.split(".attn2.")[1] for name in wanted} == {
        "to_q.weight.full", "to_k.weight.full", "to_v.weight.full",
        "to_out.0.weight.full", "to_out.0.bias.full",
    }  # fmt: skip
    assert set(step_gradients(CLiC(host, scene(), config(tokens=1)), 0)) == {"handle.mark.clip_l"}
    models = [host.unet, host.vae, *(e.model for e in host._encoders)]
    assert all(p.grad is None for model in models for p in model.parameters())
    assert_unchanged(before, host)


def test_the_start_token_teaches_keys_and_values_nothing(host: DiffusersHost) -> None:
    def of(**more: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
        learner = CLiC(host, scene(), config(**more))
        return terms_of(learner), step_gradients(learner)

    (terms, detached), (same, plain) = of(), of(detach_start=False)
    assert terms == same  # no number of the pass changes
    for name, gradient in detached.items():
        is_read = ".to_k." in name or ".to_v." in name
        assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=1e-7) != is_read, name


def test_every_family_learns() -> None:
    for family in ("sd2", "sdxl"):
        host = tiny_host(family, velocity=family == "sd2")
        host.encode_prompt("")
        before = snapshot(host)
        learner = CLiC(host, scene(), config(weights=2))
        start = {name: p.detach().clone() for name, p in learner.named_parameters().items()}
        run(learner, LoopConfig())
        still = [n for n, p in learner.named_parameters().items() if torch.equal(p, start[n])]
        assert not still
        assert_unchanged(before, host)


def test_checkpointing_learns_the_same(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(), config(checkpointing=True))
    with learner.computing(learner.phases()[1]):
        assert host.unet.is_gradient_checkpointing
    ours, theirs = step_gradients(learner), step_gradients(CLiC(host, scene(), config()))
    assert set(ours) == set(theirs)
    for name, grad in theirs.items():
        assert torch.allclose(ours[name], grad, rtol=1e-3, atol=1e-6), name


def test_stepping_down_gives_rows_first_and_activations_next(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(), config(batch_size=2))
    assert learner.rows == 4
    first, second = learner.step_down(), learner.step_down()
    assert first is not None
    assert second is not None
    assert (first.passes, learner.rows, second.passes) == (2, 2, 1)
    with learner.computing(learner.phases()[0]):
        assert host.unet.is_gradient_checkpointing
    assert learner.step_down() is None
    assert CLiC(host, scene(), config(roi_weight=0.0)).rows == 1
