"""What newer ComfyUI does in the UNet, by stand-ins that behave as its files do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy.ldm.modules import attention
from test_lag import lag, sample
from tiny_models import Graph

from conceptloom.errors import MissedSitesError
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.ports import FactoredEdit


class Container:
    """A tensor that one attention backend takes, once."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor: torch.Tensor | None = tensor

    def take(self) -> torch.Tensor:
        tensor, self.tensor = self.tensor, None
        assert tensor is not None, "taken twice"
        return tensor


def attend(*containers: Container, heads: int, preferred_attention: Any, **kwargs: Any) -> Any:
    """Overrides come first, as tensors where they know no containers; then what a layer prefers."""
    options = kwargs["transformer_options"]
    if override := options.get("optimized_attention_override"):
        assert not hasattr(override, "container_function")
        tensors = (container.take() for container in containers)
        backend = attention.attention_sub_quad
        return override(backend, *tensors, heads, _inside_attn_wrapper=True, **kwargs)
    if preferred_attention.function is not None:
        return preferred_attention.function(*containers, heads, **kwargs)
    return attention.attention_sub_quad(*(c.take() for c in containers), heads, **kwargs)


def with_containers(monkeypatch: pytest.MonkeyPatch, preferred: Any = None) -> None:
    def forward(
        self: Any, x: Any, context: Any = None, value: Any = None, mask: Any = None,
        transformer_options: Any = None,
    ) -> Any:  # fmt: skip
        context = x if context is None else context
        projected = self.to_q(x), self.to_k(context), self.to_v(context if value is None else value)
        attended = attend(
            *map(Container, projected),
            heads=self.heads,
            preferred_attention=SimpleNamespace(function=preferred),
            transformer_options=transformer_options or {},
        )
        return self.to_out(attended)

    monkeypatch.setattr(attention.CrossAttention, "forward", forward)


def learned(graph: Graph) -> float:
    """The gradient of one factor on an output projection."""
    host = ComfyHost(graph.model, graph.clip)
    factor = torch.zeros((), requires_grad=True)
    edit = FactoredEdit(lambda w: w, lambda inputs, output: output + factor * output)
    name = f"unet.{host.sites.transformers[0].name}.transformer_blocks.0.attn2.to_k.weight"
    with host.edited({name: edit}, trainable=True):
        prompt = host.encode_prompt("a cat")
        host.predict(
            torch.ones(1, 4, 8, 8), torch.tensor([500]), [prompt]
        ).square().sum().backward()
    assert factor.grad is not None
    return float(factor.grad)


def test_attention_takes_containers(sd1: Graph, monkeypatch: pytest.MonkeyPatch):
    def without_backward(*containers: Container, **_: Any) -> Any:
        raise AssertionError("a kernel that cannot learn")

    model, clip = lag(sd1)
    drawn, gradient = sample(model, clip), learned(sd1)
    with_containers(monkeypatch)
    torch.testing.assert_close(sample(model, clip), drawn, rtol=1e-4, atol=1e-4)
    with_containers(monkeypatch, without_backward)
    assert learned(sd1) == pytest.approx(gradient, rel=1e-3)
    assert gradient != 0


def test_a_fused_kernel_is_noticed_and_learning_switches_it_off(
    sd1: Graph, monkeypatch: pytest.MonkeyPatch
):
    """Kernels of INT8 pass layers by, unless these have weight functions."""
    written = attention.CrossAttention.forward

    def forward(self: Any, x: Any, context: Any = None, **more: Any) -> Any:
        if self.to_k.weight_function or context is None:
            return written(self, x, context=context, **more)
        linear = torch.nn.functional.linear
        q, k, v = (
            linear(i, layer.weight.to(i))
            for i, layer in ((x, self.to_q), (context, self.to_k), (context, self.to_v))
        )
        return self.to_out(attention.attention_sub_quad(q, k, v, self.heads))

    gradient = learned(sd1)
    monkeypatch.setattr(attention.CrossAttention, "forward", forward)
    with pytest.raises(MissedSitesError, match=r"16 of 32 places.*LagEdit.*fused kernel"):
        sample(*lag(sd1))
    assert learned(sd1) == pytest.approx(gradient, rel=1e-5)
