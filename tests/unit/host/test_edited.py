"""Computing with edited weights, and giving the model back as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.errors import ModelError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import FactoredEdit, ForwardInfo, LayerSite, UNetEdit, UNetSites
from conceptloom.training.adapters import Scope, Start, make_adapters

from ..tiny_models import assert_unchanged, diffusers, hooks_on, noise, snapshot, tiny_host

NAMES = [
    "unet.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    "unet.output_blocks.4.1.proj_out.bias",
    "clip_l.text_model.encoder.layers.1.self_attn.v_proj.weight",
    "clip_l.text_model.embeddings.token_embedding.weight",
]


@pytest.fixture
def host() -> DiffusersHost:
    return tiny_host()


def predict(host: DiffusersHost) -> Tensor:
    prompt = host.encode_prompt("a photo of a cat")
    return host.predict(noise(1, 4, 8, 8), torch.tensor([300]), [prompt])


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_given_back_as_it_was(
    host: DiffusersHost, trainable: bool, fails: bool
) -> None:
    next(host.unet.parameters()).requires_grad_(False)  # flags come back one by one
    host.unet.train()
    before, plain = snapshot(host), predict(host).detach()
    edits = {name: lambda w: w * 1.5 for name in host.weight_names()}
    try:
        with host.edited(edits, trainable=trainable, checkpointing=True):
            assert not torch.equal(predict(host), plain)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert_unchanged(before, host)
    assert torch.equal(predict(host), plain)


@pytest.mark.parametrize("trainable", [True, False])
def test_an_edit_that_fails_leaves_nothing_behind(host: DiffusersHost, trainable: bool) -> None:
    def fail(weight: Tensor) -> Tensor:
        raise RuntimeError("broken edit")

    before = snapshot(host)
    edits = dict.fromkeys(NAMES, lambda w: w * 2) | {NAMES[2]: fail}
    with pytest.raises(RuntimeError, match="broken edit"):  # noqa: SIM117
        with host.edited(edits, trainable=trainable):
            predict(host)
    assert_unchanged(before, host)


def test_edits_that_change_nothing_change_nothing(host: DiffusersHost) -> None:
    plain = predict(host).detach()
    for trainable in (True, False):
        with host.edited(dict.fromkeys(NAMES, lambda w: w), trainable=trainable):
            assert torch.equal(predict(host), plain)


def test_edited_weights_are_the_ones_computed_with(host: DiffusersHost) -> None:
    name = "unet.out.2.bias"
    plain = predict(host).detach()
    for trainable in (True, False):
        with host.edited({name: lambda b: b + 0.25}, trainable=trainable):
            assert torch.allclose(predict(host), plain + 0.25, atol=1e-6)
            assert torch.equal(host.weight(name), host.unet.conv_out.parametrizations.bias.original)


def test_trainable_edits_are_called_on_every_use_and_others_once(host: DiffusersHost) -> None:
    calls = []

    def count(weight: Tensor) -> Tensor:
        calls.append(weight)
        return weight

    for trainable, expected in ((True, 2), (False, 1)):
        calls.clear()
        with host.edited({NAMES[0]: count}, trainable=trainable):
            predict(host)
            predict(host)
        assert len(calls) == expected


def test_gradients_reach_the_parameters_of_edits_and_nothing_else(host: DiffusersHost) -> None:
    learned = {name: nn.Parameter(host.weight(name) * 0 + 1e-3) for name in NAMES}
    edits = {name: lambda w, p=p: w + p for name, p in learned.items()}
    with host.edited(edits, trainable=True):
        predict(host).square().mean().backward()
    for name, parameter in learned.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    models = [host.unet, *(e.model for e in host._encoders)]
    assert all(p.grad is None for model in models for p in model.parameters())


def test_without_trainable_edits_no_gradient_is_asked_for(host: DiffusersHost) -> None:
    learned = nn.Parameter(torch.ones(()))
    with host.edited({NAMES[0]: lambda w: w * learned}, trainable=False):
        assert not host.sites.cross_attentions[0].key.module.weight.requires_grad
        predict(host).sum().backward()
    assert learned.grad is None


def gradients(host: DiffusersHost, checkpointing: bool) -> list[Tensor]:
    """Of a loss on the prediction and on attention maps, by handle and weights."""
    learned = {name: nn.Parameter(torch.zeros_like(host.weight(name))) for name in NAMES}
    vector = nn.Parameter(noise(1, 16, seed=9))
    edits = {name: lambda w, p=p: w + p for name, p in learned.items()}
    capture = AttentionCapture([s for s in host.sites.transformers if s.downsample == 2])
    with host.edited(edits, trainable=True, checkpointing=checkpointing):
        assert host.unet.is_gradient_checkpointing == checkpointing
        prompt = host.encode_prompt("a photo of <mug>", {"mug": {"clip_l": vector}})
        output = host.predict(noise(1, 4, 8, 8), torch.tensor([300]), [prompt], [capture])
        maps = capture.maps([TokenQuery(0, prompt.find_handle("mug"), 77)])
        (output.square().mean() + 100 * maps.square().sum()).backward()
    grads = [vector.grad, *(p.grad for p in learned.values())]
    assert all(g is not None and g.abs().sum() > 0 for g in grads)
    return [g for g in grads if g is not None]


def test_checkpointing_gives_the_same_gradients(host: DiffusersHost) -> None:
    before = snapshot(host)
    plain, recomputed = gradients(host, False), gradients(host, True)
    for a, b in zip(plain, recomputed, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-9)
    assert_unchanged(before, host)


def test_checkpointing_that_was_on_stays_on(host: DiffusersHost) -> None:
    host.unet.enable_gradient_checkpointing()
    with host.edited({}, trainable=True, checkpointing=True):
        pass
    assert host.unet.is_gradient_checkpointing


def test_edits_nest(host: DiffusersHost) -> None:
    """A concept learned on top of one that is applied."""
    before = snapshot(host)
    name = "unet.out.2.bias"
    plain = predict(host).detach()
    with host.edited({name: lambda b: b + 1}, trainable=False):
        with host.edited({name: lambda b: b + 0.5}, trainable=True):
            assert torch.allclose(predict(host), plain + 1.5, atol=1e-6)
        assert torch.allclose(predict(host), plain + 1, atol=1e-6)
    assert_unchanged(before, host)


def test_the_digest_of_a_model_survives_learning(host: DiffusersHost) -> None:
    """Otherwise a run on the same pipeline would not find its own state again."""
    digest = model_digest(host)
    with host.edited(dict.fromkeys(host.weight_names(), lambda w: w), trainable=True):
        assert model_digest(host) == digest
    again = DiffusersHost(
        unet=host.unet,
        vae=host.vae,
        encoders=host._encoders,
        scheduler=diffusers.DDPMScheduler(),
    )
    assert model_digest(again) == digest


def test_unknown_weights_are_refused_before_anything_happens(host: DiffusersHost) -> None:
    before = snapshot(host)
    with pytest.raises(ModelError, match=r"no weight unet\.nowhere .*another kind of model"):  # noqa: SIM117
        with host.edited({NAMES[0]: lambda w: w, "unet.nowhere": lambda w: w}, trainable=True):
            raise AssertionError
    assert_unchanged(before, host)


class StartTokenDetached(UNetEdit):
    """Custom Diffusion's trick: nothing is learned about the start token."""

    def __init__(self) -> None:
        self.calls = 0

    def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
        return [site.key for site in sites.cross_attentions]

    def layer(self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo) -> Tensor:
        self.calls += 1
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_recomputed_blocks_meet_the_edits_that_change_them(family: str) -> None:
    host = tiny_host(family)
    name = next(n for n in host.weight_names() if n.endswith("attn2.to_k.weight"))

    def gradient(checkpointing: bool, edit: UNetEdit | None) -> Tensor:
        delta = torch.zeros_like(host.weight(name), requires_grad=True)
        edits = [] if edit is None else [edit]
        with host.edited({name: lambda w: w + delta}, trainable=True, checkpointing=checkpointing):
            prompt = host.encode_prompt("a photo of a cat")
            out = host.predict(noise(1, 4, 16, 16), torch.tensor([300]), [prompt], edits)
            out.square().sum().backward()
        assert delta.grad is not None
        return delta.grad

    plain, edit = gradient(False, None), StartTokenDetached()
    before = hooks_on(host)  # transformers has put some of its own on the text encoders
    wanted = gradient(False, edit)
    assert not torch.allclose(plain, wanted, rtol=1e-3)
    calls, edit.calls = edit.calls, 0
    torch.testing.assert_close(gradient(True, edit), wanted, rtol=1e-5, atol=1e-8)
    assert calls < edit.calls <= 2 * calls  # the middle block is not recomputed by diffusers
    assert hooks_on(host) == before


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_factored_edits_learn_what_their_sum_learns(family: str) -> None:
    """Low-rank factors learn the same, whether they are summed with the weight or applied apart."""
    host = tiny_host(family)
    predict(host)
    before = hooks_on(host)
    adapters = make_adapters(host, Scope.LOW_RANK, rank=3, start=Start.BOTH_RANDOM)
    edits = adapters.edits()
    assert all(isinstance(edit, FactoredEdit) for edit in edits.values())
    summed = {name: edit.weight for name, edit in edits.items()}

    def gradients(edits, checkpointing=False) -> dict[str, torch.Tensor]:
        for parameter in adapters.parameters():
            parameter.grad = None
        with host.edited(edits, trainable=True, checkpointing=checkpointing):
            predict(host).square().sum().backward()
        return {name: p.grad for name, p in adapters.named().items()}

    wanted = gradients(summed)
    for checkpointing in (False, True):
        found = gradients(edits, checkpointing)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-6)
    assert hooks_on(host) == before
