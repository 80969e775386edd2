"""An extra UNet pass inside a sampling run, for edits that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..hooks import edits_installed, plain_pass
from ..ports import ForwardInfo, Prompt, StopForward, UNetEdit
from .edits import SamplingRun
from .host import ComfyHost


class ExtraForward:
    """Runs a prompt through the network that computes at this moment; edits and patches of others
    are left out.

    The host's own way to the UNet would load models, which a sampler has loaded already; this one
    calls the network as it stands. What SDXL wants beside the context is prepared beforehand.

    Args:
        host: MODEL, CLIP of the graph.
        prompt: of the pass.
        shape: [1, C, h, w] of its latents.
    """

    def __init__(self, host: ComfyHost, prompt: Prompt, shape: Sequence[int]) -> None:
        self._context, self._dtype = prompt.context, host.dtype
        self._has_time, self._clock = host.has_time, host.clock
        joint = host.sites.joint is not None
        self._counts = {"num_tokens": prompt.context.shape[1]} if joint else {}
        self._extra: Mapping[str, Tensor] = host.extra_inputs(
            torch.zeros(*shape, device=host.device), [prompt]
        )

    def __call__(
        self, run: SamplingRun, scaled: Tensor, timestep: float, edits: Sequence[UNetEdit]
    ) -> None:
        """One pass for its edits alone; its prediction is dropped.

        Args:
            scaled: [1, C, h, w] x_t, on the network's device.
        """
        network: Any = run.network
        at = torch.full((1,), float(timestep), device=scaled.device)
        extra = {name: value.to(scaled.device) for name, value in self._extra.items()}
        if "c_concat" in extra:  # inpainting models
            scaled = torch.cat([scaled, extra.pop("c_concat").to(scaled)], 1)
        info = ForwardInfo(tuple(scaled.shape), at, (True,), self._context.shape[1])
        with suppress(StopForward), plain_pass(), edits_installed(run.sites, edits, info):
            inputs = scaled.unsqueeze(2) if self._has_time else scaled
            network(
                inputs.to(self._dtype),
                at * self._clock,
                context=self._context.to(scaled.device, self._dtype),
                transformer_options={},
                **extra,
                **self._counts,
            )
