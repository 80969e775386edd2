"""Which weights learn, how they begin, and what is kept of them."""

from __future__ import annotations

import pytest
import torch

from conceptloom.concepts.concept import Diff, LowRank
from conceptloom.errors import ConfigError, ModelError
from conceptloom.host.ports import FactoredEdit
from conceptloom.training.adapters import (
    FullWeight,
    LowRankWeight,
    Scope,
    Start,
    make_adapters,
    rank_for,
    scope_weight_names,
)

from ..fake_host import FakeHost


class Shapes:
    """A UNet of Stable Diffusion 1 that has shapes and no numbers."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        diffusers = pytest.importorskip("diffusers")
        from conceptloom.host.diffusers.sites import canonical_unet_names

        with torch.device("meta"):
            unet = diffusers.UNet2DConditionModel(
                sample_size=64, cross_attention_dim=768, attention_head_dim=8
            )
        weights = dict(unet.named_parameters())
        self.weights = {name: weights[path] for name, path in canonical_unet_names(unet).items()}

    def weight(self, name: str) -> torch.Tensor:
        return self.weights[name]

    def weight_names(self) -> list[str]:
        return list(self.weights)


@pytest.fixture(scope="module")
def sd1() -> Shapes:
    return Shapes()


def test_residuals_of_sd1_have_1239040_parameters(sd1: Shapes) -> None:
    adapters = make_adapters(sd1, Scope.PROJ_OUT, rank=0.05)
    assert len(adapters) == 16
    assert adapters.count() == 1_239_040


@pytest.mark.parametrize(
    ("scope", "weights", "numbers"),
    [
        (Scope.HANDLES, 0, 0),
        (Scope.CROSS_ATTENTION_KV, 32, 19_169_280),  # methods: 19.17M
        (Scope.CROSS_ATTENTION, 80, 43_962_560),  # 43.96M
        (Scope.PROJ_OUT, 16, 12_390_400),
        (Scope.LOW_RANK, 16 * 12, None),
        (Scope.FULL, 686, 859_520_964),
    ],
)
def test_scopes_of_sd1(sd1: Shapes, scope: Scope, weights: int, numbers: int | None) -> None:
    names = scope_weight_names(sd1.weight_names(), scope)
    assert len(names) == weights
    if numbers is not None:
        assert sum(sd1.weight(name).numel() for name in names) == numbers


def test_text_encoders_learn_in_low_rank_and_full_only() -> None:
    names = FakeHost().weight_names()
    touched = {s: any(n.startswith("clip") for n in scope_weight_names(names, s)) for s in Scope}
    assert [scope for scope, is_touched in touched.items() if is_touched] == [
        Scope.LOW_RANK,
        Scope.FULL,
    ]


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_untrained_adapters_change_nothing(scope: Scope, dtype: torch.dtype) -> None:
    host = FakeHost(dtype)
    adapters = make_adapters(host, scope, rank=4)
    for name, edit in adapters.edits().items():
        edited = edit(host.weight(name))
        assert edited.dtype == dtype
        assert torch.equal(edited, host.weight(name)), name
    assert adapters.to_concept_weights() == {}


@pytest.mark.parametrize("scope", [Scope.CROSS_ATTENTION, Scope.LOW_RANK, Scope.FULL])
def test_gradients_reach_every_parameter_and_no_original(scope: Scope) -> None:
    host = FakeHost()
    adapters = make_adapters(host, scope, rank=4, start=Start.BOTH_RANDOM)
    sum(edit(host.weight(n)).square().sum() for n, edit in adapters.edits().items()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.parameters())
    assert not any(w.requires_grad for w in host.weights.values())


@pytest.mark.parametrize("scope", [Scope.CROSS_ATTENTION, Scope.PROJ_OUT, Scope.FULL])
def test_the_concept_holds_what_was_learned(scope: Scope) -> None:
    host = FakeHost()
    adapters = make_adapters(host, scope, rank=4, alpha=2.0)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.25)
    weights = adapters.to_concept_weights()
    assert set(weights) == set(adapters.edits())
    for name, edit in adapters.edits().items():
        original = host.weight(name)
        learned = original + weights[name].delta(original.shape)
        assert torch.allclose(edit(original), learned, atol=1e-6)


def test_unchanged_weights_are_left_out() -> None:
    host = FakeHost()
    adapters = make_adapters(host, Scope.CROSS_ATTENTION_KV)
    with torch.no_grad():
        next(adapters.parameters()).add_(1)
    assert len(adapters.to_concept_weights()) == 1


def test_full_weight_by_hand() -> None:
    weight = FullWeight(torch.tensor([1.0, 2.0], dtype=torch.float16))
    with torch.no_grad():
        weight.parameter.add_(0.5)
    assert weight.parameter.dtype == torch.float32
    assert weight.as_edit()(torch.zeros(2, dtype=torch.bfloat16)).tolist() == [1.5, 2.5]
    change = weight.change(torch.tensor([1.0, 2.0]))
    assert isinstance(change, Diff)
    assert change.tensor.tolist() == [0.5, 0.5]


def test_low_rank_by_hand() -> None:
    part = LowRankWeight((2, 3, 1, 1), 1, torch.Generator(), alpha=0.5)
    with torch.no_grad():
        part.up.copy_(torch.tensor([[1.0], [2.0]]))
        part.down.copy_(torch.tensor([[[[2.0]], [[4.0]], [[6.0]]]]))
    edited = part.as_edit()(torch.ones(2, 3, 1, 1))
    assert edited.flatten(1).tolist() == [[2.0, 3.0, 4.0], [3.0, 5.0, 7.0]]
    # the same on points: W x + B A x
    inputs = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    factored = part.as_edit()
    assert isinstance(factored, FactoredEdit)
    torch.testing.assert_close(
        factored.residual(inputs, torch.conv2d(inputs, torch.ones(2, 3, 1, 1))),
        torch.conv2d(inputs, edited),
    )
    assert not isinstance(LowRankWeight((2, 3, 3, 3), 1, torch.Generator()).as_edit(), FactoredEdit)
    change = part.change(torch.zeros(2, 3, 1, 1))
    assert isinstance(change, LowRank)
    assert change.down.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_factors_beside_a_linear_layer_are_those_of_the_summed_weight(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    part = LowRankWeight((6, 5), 2, generator, alpha=0.5, start=Start.BOTH_RANDOM)
    with torch.no_grad():
        part.up.mul_(1000)
    weight, inputs = (
        torch.randn(6, 5, generator=generator),
        torch.randn(2, 3, 5, generator=generator),
    )
    edit = part.as_edit()
    assert isinstance(edit, FactoredEdit)

    def learned(output: torch.Tensor) -> list[torch.Tensor]:
        output.float().square().sum().backward()
        grads = [p.grad for p in (part.up, part.down) if p.grad is not None]
        part.up.grad = part.down.grad = None
        return [output.detach().float(), *grads]

    wanted = learned(torch.nn.functional.linear(inputs, edit(weight)))
    inputs, weight = inputs.to(dtype), weight.to(dtype)
    found = learned(edit.residual(inputs, torch.nn.functional.linear(inputs, weight)))
    assert len(found) == 3
    exact = dtype == torch.float32
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-4 if exact else 0.05, atol=1e-4 if exact else 0.3)


def test_starts_are_as_named() -> None:
    shape, generator = (400, 100), torch.Generator().manual_seed(0)
    kaiming = LowRankWeight(shape, 50, generator)
    assert kaiming.down.abs().max() <= 0.1
    assert kaiming.down.detach().std() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    gaussian = LowRankWeight(shape, 50, generator, start=Start.GAUSSIAN)
    assert gaussian.down.detach().std() == pytest.approx(1 / 50, rel=0.05)
    assert not gaussian.up.any()
    both = LowRankWeight(shape, 50, generator, start=Start.BOTH_RANDOM)
    assert both.up.detach().std() == pytest.approx(1e-3, rel=0.05)


def test_what_is_drawn_depends_on_seed_and_name_only() -> None:
    a, b, c = (make_adapters(FakeHost(), Scope.LOW_RANK, 4, seed=s).state() for s in (1, 1, 2))
    down = "adapter.unet.input_blocks.1.1.proj_out.weight.down"
    assert torch.equal(a[down], b[down])
    assert not torch.equal(a[down], c[down])
    alone = make_adapters(FakeHost(), Scope.PROJ_OUT, 4, seed=1).state()
    assert torch.equal(a[down], alone[down])


def test_state_goes_there_and_back() -> None:
    adapters, other = (make_adapters(FakeHost(), Scope.LOW_RANK, 4, seed=s) for s in (1, 2))
    other.load_state(adapters.state())
    assert all(
        torch.equal(x, y) for x, y in zip(adapters.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize(("rank", "width", "expected"), [(4, 32, 4), (0.05, 320, 16), (0.01, 8, 1)])
def test_rank_is_a_number_or_a_ratio(rank: float, width: int, expected: int) -> None:
    assert rank_for(rank, width) == expected


@pytest.mark.parametrize("rank", [0, -1, 1.5, float("nan"), float("inf")])
def test_bad_ranks_are_refused(rank: float) -> None:
    with pytest.raises(ConfigError, match="rank"):
        rank_for(rank, 8)


def test_a_rank_above_the_weights_own_is_cut() -> None:
    assert LowRankWeight((32, 8), 64, torch.Generator()).up.shape == (32, 8)


def test_a_model_without_such_weights_is_refused() -> None:
    host = FakeHost()
    host.weights = {"unet.out.0.bias": torch.ones(3)}
    with pytest.raises(ModelError, match="no weight for the scope 'proj_out'"):
        make_adapters(host, Scope.PROJ_OUT)
    for scope in (Scope.CROSS_ATTENTION_KV, Scope.CROSS_ATTENTION):
        with pytest.raises(ModelError, match=r"no cross-attention .* choose the scope 'low-rank'"):
            make_adapters(host, scope)
