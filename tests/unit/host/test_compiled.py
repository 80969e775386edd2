"""Edits in compiled networks: exact where torch can step back from the graph, refused where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conceptloom.errors import ModelError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import FactoredEdit
from conceptloom.host.uncompiled import uncompiled

from ..tiny_models import noise, tiny_host
from .edit_cases import Everywhere, predict


def as_a_wrapper(host: DiffusersHost) -> Any:
    return torch.compile(host.unet, backend="eager")


def in_place(host: DiffusersHost) -> Any:
    host.unet.compile(backend="eager")
    return host.unet


def block_by_block(host: DiffusersHost) -> Any:
    for site in host.sites.transformers:
        site.module.compile(backend="eager")
    return host.unet


WAYS = (as_a_wrapper, in_place, block_by_block)


@pytest.fixture
def plain() -> DiffusersHost:
    return tiny_host("sd1")


@pytest.fixture(autouse=True)
def no_graphs_left() -> Iterator[None]:
    import torch._dynamo

    yield
    torch._dynamo.reset()


def stance() -> str:
    import torch._dynamo.eval_frame

    return torch._dynamo.eval_frame._stance.stance


def remade(host: DiffusersHost, unet: Any, wrap: Callable[[Any], Any] = lambda m: m) -> Any:
    from dataclasses import replace

    encoders = [replace(e, model=wrap(e.model)) for e in host._encoders]
    from diffusers import DDIMScheduler

    return DiffusersHost(unet=unet, vae=host.vae, encoders=encoders, scheduler=DDIMScheduler())


@pytest.mark.parametrize("compiled", WAYS)
def test_an_edited_pass_of_a_compiled_unet_is_exact(
    plain: DiffusersHost, compiled: Callable[[DiffusersHost], Any]
) -> None:
    expected = predict(plain, Everywhere(change=lambda o: o * 1.1))
    host = remade(plain, compiled(plain))
    edit = Everywhere(change=lambda o: o * 1.1)
    assert torch.equal(predict(host, edit), expected)
    assert len(edit.fired) > len(host.sites.transformers)
    assert list(host.weight_names()) == list(plain.weight_names())
    assert stance() == "default", "passes without edits stay compiled"


def test_a_crash_in_an_edit_leaves_the_graph_in_use(plain: DiffusersHost) -> None:
    def crash(output: torch.Tensor) -> None:
        assert stance() == "force_eager"
        raise RuntimeError("crash")

    host = remade(plain, as_a_wrapper(plain))
    with pytest.raises(RuntimeError, match="crash"):
        predict(host, Everywhere(change=crash))
    assert stance() == "default"


def test_the_last_of_several_passes_switches_it_off() -> None:

    with uncompiled:
        with uncompiled:
            pass
        assert stance() == "force_eager"
    assert stance() == "default"


def test_learning_reaches_layers_of_a_compiled_unet(plain: DiffusersHost) -> None:
    host = remade(plain, as_a_wrapper(plain))
    name = f"unet.{host.sites.transformers[0].name}.proj_out.weight"
    factor = torch.zeros((), requires_grad=True)
    edit = FactoredEdit(lambda w: w, lambda inputs, output: output + factor * output)
    prompt, at = host.encode_prompt("a cat"), torch.tensor([300])
    with host.edited({name: edit}, trainable=True):
        host.predict(noise(1, 4, 16, 16), at, [prompt]).square().sum().backward()
    assert factor.grad is not None
    assert factor.grad.abs() > 0
    assert stance() == "default"


def test_handles_reach_a_compiled_text_encoder(plain: DiffusersHost) -> None:
    vectors = {"my-cup": {name: torch.ones(2, w) for name, w in plain.encoders.items()}}
    expected = plain.encode_prompt("a <my-cup>", vectors).context
    host = remade(plain, plain.unet, lambda model: torch.compile(model, backend="eager"))
    assert torch.equal(host.encode_prompt("a <my-cup>", vectors).context, expected)


@pytest.mark.parametrize("compiled", WAYS)
def test_a_torch_that_cannot_step_back_refuses(
    plain: DiffusersHost,
    compiled: Callable[[DiffusersHost], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.compiler, "set_stance")
    remade(plain, plain.unet)
    with pytest.raises(ModelError, match="is compiled"):
        remade(plain, compiled(plain))
