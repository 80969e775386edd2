"""Noise paths: how a base model mixes picture and noise, and what its network predicts there.

    x_t = alpha x_0 + sigma noise

| path           | t      | alpha, sigma                               | the network predicts      |
|----------------|--------|--------------------------------------------|---------------------------|
| `EpsPath`      | 0..T-1 | sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)   | noise                     |
| `VelocityPath` | 0..T-1 | the same                                   | alpha noise - sigma x_0   |
| `FlowPath`     | 0..1   | 1 - t, t                                   | noise - x_0               |
| `CosmosPath`   | 0..1   | the same                                   | the same                  |

Samplers walk along noise levels s in a frame of their own, that of ComfyUI: x_s = x_0 + s noise
with s = sigma / alpha where a path preserves the variance, and on Cosmos-Predict2's flow; x_s = x_t
with s = t on any other flow. In both frames dx/ds = (x_s - x_0) / s, so that one Euler step (DDIM
with eta = 0) serves every model.

Shapes: latents [B, C, ...]; t is [B], or one number for all rows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError

ZERO_SNR = 4.8973451890853435e-08  # alpha_bar where a schedule ends in pure noise; ComfyUI's value
LEAST_PICTURE = 1e-4  # share of the picture at the noisiest point of an inverted flow
ENDS_IN_NOISE = 1e-6  # a last alpha_bar below this was meant to be 0; Stable Diffusion's is 0.0047


class NoisePath(ABC):
    """Noising of pictures, and the meaning of the network's predictions."""

    name: ClassVar[str]  # of what the network predicts, as fingerprints have it

    @property
    @abstractmethod
    def last_t(self) -> float:
        """t of the highest noise level; 0 is clean."""

    @property
    def highest_start(self) -> float:
        """The highest noise level at which a sampler can start from latents and no noise."""
        return math.inf

    @abstractmethod
    def coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """alpha and sigma of x_t: [B] float32 on t's device, or two float64 numbers on the CPU."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """What the network should predict at x_t."""

    @abstractmethod
    def denoised(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        """x_0 of a prediction at x_t."""

    @abstractmethod
    def noise(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        """The noise of a prediction at x_t."""

    @abstractmethod
    def sample_t(self, rows: int, generator: torch.Generator) -> Tensor:
        """Random t for training, [rows] on the CPU."""

    @abstractmethod
    def timesteps(self, steps: int) -> list[float]:
        """t of every step of a sampler, from noisy to clean."""

    @abstractmethod
    def level_at(self, t: Tensor) -> Tensor:
        """The sampler's noise level [B] float32 at t."""

    @abstractmethod
    def timestep_at(self, level: float) -> float:
        """t of the network for a noise level."""

    @abstractmethod
    def input_scale(self, level: float) -> float:
        """x_t / x_s at a noise level."""

    def picture_scale(self, level: float) -> float:
        """Share of the picture in x_s; that of the noise is s."""
        return 1.0

    @abstractmethod
    def slope(self, noisy: Tensor, output: Tensor, level: float) -> Tensor:
        """dx_s/ds of a prediction at x_s."""

    def numbered(self, timestep: int) -> float:
        """t of a noise level in the numbers of Stable Diffusion, 0 to 999, as users write them."""
        return timestep

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """x_t."""
        alpha, sigma = self._spread(t, clean)
        return alpha * clean + sigma * noise

    def levels(self, steps: int) -> Tensor:
        """Noise levels [steps + 1] of a sampler, from noisy to 0 (float32, CPU)."""
        at = torch.tensor(self.timesteps(steps))
        return torch.cat([self.level_at(at), torch.zeros(1)])

    def denoised_at(self, noisy: Tensor, output: Tensor, level: float) -> Tensor:
        """x_0 of a prediction at x_s."""
        return noisy - level * self.slope(noisy, output, level)

    def _spread(self, t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        """`coefficients`, shaped to multiply latents of any number of axes."""
        alpha, sigma = self.coefficients(t)
        if not alpha.ndim:
            return alpha, sigma
        shape = (-1, *[1] * (like.ndim - 1))
        return alpha.view(shape), sigma.view(shape)


@dataclass(frozen=True, slots=True, eq=False)
class VariancePreserving(NoisePath):
    """alpha^2 + sigma^2 = 1, at T numbered levels (the papers; Stable Diffusion).

    A schedule that ends in pure noise keeps the same trace of the picture as in ComfyUI, so that
    its last level is finite.
    """

    alpha_bar: Tensor  # [T] float64 on the CPU, falling; any float tensor is taken
    trailing: bool = False  # steps are counted from the noisy end, as the model's scheduler asks

    def __post_init__(self) -> None:
        alpha_bar = self.alpha_bar.detach().double().cpu().clamp_min(ZERO_SNR)
        object.__setattr__(self, "alpha_bar", alpha_bar)

    def __len__(self) -> int:
        return self.alpha_bar.shape[0]

    @property
    def last_t(self) -> float:
        return len(self) - 1

    @property
    def starts_at_the_end(self) -> bool:
        """Whether a sampler's first step has to be the noisiest level there is.

        A model trained on pure noise needs pure noise at its own timestep (Lin et al. 2024,
        arXiv 2305.08891, Sec. 3.3): "leading" steps would label it as less noisy.
        """
        return self.trailing or float(self.alpha_bar[-1]) < ENDS_IN_NOISE

    def _alpha_bar_at(self, t: Tensor | float) -> Tensor:
        if not isinstance(t, Tensor):
            return self.alpha_bar[int(t)]
        # float32 before it moves: some devices have no float64.
        return self.alpha_bar.float().to(t.device)[t.long()]

    def coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        alpha_bar = self._alpha_bar_at(t)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def sample_t(self, rows: int, generator: torch.Generator) -> Tensor:
        """Uniform over all levels."""
        return torch.randint(len(self), (rows,), generator=generator)

    def timesteps(self, steps: int) -> list[float]:
        """Evenly spaced as in Stable Diffusion ("leading", offset 1), or from the last one on
        ("trailing").

        Raises:
            ConfigError: more steps than levels, or none.
        """
        if not 1 <= steps <= len(self):
            raise ConfigError("steps", steps, f"between 1 and {len(self)}")
        if self.starts_at_the_end:
            apart = len(self) / steps
            return [round(len(self) - i * apart) - 1 for i in range(steps)]
        stride = len(self) // steps
        offset = min(1, len(self) - 1 - stride * (steps - 1))  # none where every level is a step
        return [stride * i + offset for i in reversed(range(steps))]

    def level_at(self, t: Tensor) -> Tensor:
        alpha_bar = self._alpha_bar_at(t)
        return ((1 - alpha_bar) / alpha_bar).sqrt()

    def timestep_at(self, level: float) -> int:
        """The whole timestep whose level is nearest, by their ratio."""
        known = ((1 - self.alpha_bar) / self.alpha_bar).log() / 2
        target = torch.tensor(max(level, 1e-10), dtype=torch.float64).log()
        return int((known - target).abs().argmin())

    def input_scale(self, level: float) -> float:
        return (1 / (1 + level**2)) ** 0.5


class EpsPath(VariancePreserving):
    """The network predicts the noise."""

    __slots__ = ()
    name = "eps"

    def target(self, clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        return noise

    def denoised(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        alpha, sigma = self._spread(t, noisy)
        return (noisy - sigma * output) / alpha

    def noise(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        return output

    def slope(self, noisy: Tensor, output: Tensor, level: float) -> Tensor:
        return output


class VelocityPath(VariancePreserving):
    """The network predicts v (Salimans & Ho 2022, arXiv 2202.00512, App. D). Nothing is divided by
    alpha, so it is exact at the highest noise level, too."""

    __slots__ = ()
    name = "v"

    def target(self, clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        alpha, sigma = self._spread(t, clean)
        return alpha * noise - sigma * clean

    def denoised(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        alpha, sigma = self._spread(t, noisy)
        return alpha * noisy - sigma * output

    def noise(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        alpha, sigma = self._spread(t, noisy)
        return alpha * output + sigma * noisy

    def slope(self, noisy: Tensor, output: Tensor, level: float) -> Tensor:
        alpha, sigma = self._at_level(level)
        return alpha * output + sigma * (noisy * alpha)

    def denoised_at(self, noisy: Tensor, output: Tensor, level: float) -> Tensor:
        """Without the difference of two numbers as large as the level."""
        alpha, sigma = self._at_level(level)
        return alpha**2 * noisy - sigma * output

    def _at_level(self, level: float) -> tuple[float, float]:
        alpha_bar = 1 / (1 + level**2)
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


@dataclass(frozen=True, slots=True, eq=False)
class FlowPath(NoisePath):
    """A straight line from picture to noise (rectified flow), the network predicts its direction.

    Attributes:
        shift: time shift towards noise, t = shift u / (1 + (shift - 1) u), as in the model's
            training; 1 is none (Esser et al. 2024, arXiv 2403.03206, Sec. 5.3.2).
    """

    name: ClassVar[str] = "flow"
    shift: float = 1.0

    @property
    def last_t(self) -> float:
        return 1.0

    @property
    def highest_start(self) -> float:
        """Samplers multiply what they start from by 1 - t, so at 1 nothing of it would be left."""
        return 1 - LEAST_PICTURE

    def coefficients(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        at = t.float() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        return 1 - at, at

    def numbered(self, timestep: int) -> float:
        return min(timestep / 1000, self.last_t)

    def target(self, clean: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        return noise - clean

    def denoised(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        return noisy - self._spread(t, noisy)[1] * output

    def noise(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        return noisy + self._spread(t, noisy)[0] * output

    def sample_t(self, rows: int, generator: torch.Generator) -> Tensor:
        """Sigmoid of a normal number, bent: the middle of the path more often than its ends."""
        return self._bent(torch.randn(rows, generator=generator).sigmoid())

    def timesteps(self, steps: int) -> list[float]:
        """Evenly spaced from 1, then bent.

        Raises:
            ConfigError: no steps.
        """
        if steps < 1:
            raise ConfigError("steps", steps, "1 or more")
        return self._bent(1 - torch.arange(steps, dtype=torch.float64) / steps).tolist()

    def level_at(self, t: Tensor) -> Tensor:
        return t.float()

    def timestep_at(self, level: float) -> float:
        return level

    def input_scale(self, level: float) -> float:
        return 1.0

    def picture_scale(self, level: float) -> float:
        return 1 - level

    def slope(self, noisy: Tensor, output: Tensor, level: float) -> Tensor:
        return output

    def _bent(self, u: Tensor) -> Tensor:
        return self.shift * u / (1 + (self.shift - 1) * u)


@dataclass(frozen=True, slots=True, eq=False)
class CosmosPath(FlowPath):
    """A flow that is sampled in the frame of diffusion models: s = t / (1 - t), x_s = x_t / (1 - t)
    (Cosmos-Predict2, which was made of an EDM model).

    Attributes:
        least, most: s of the cleanest and the noisiest level.
    """

    least: float = 0.002
    most: float = 80.0

    @property
    def last_t(self) -> float:
        return self.most / (1 + self.most)

    @property
    def highest_start(self) -> float:
        return math.inf

    def timesteps(self, steps: int) -> list[float]:
        """Levels evenly spaced in s^(1/7), from `most` to `least` (Karras et al. 2022, arXiv
        2206.00364, Eq. 5).

        Raises:
            ConfigError: no steps.
        """
        if steps < 1:
            raise ConfigError("steps", steps, "1 or more")
        share = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
        ends = (self.most ** (1 / 7), self.least ** (1 / 7))
        levels = (ends[0] + share * (ends[1] - ends[0])) ** 7
        return (levels / (1 + levels)).tolist()

    def level_at(self, t: Tensor) -> Tensor:
        at = t.float()
        return at / (1 - at)

    def timestep_at(self, level: float) -> float:
        return level / (1 + level)

    def input_scale(self, level: float) -> float:
        return 1 / (1 + level)

    def picture_scale(self, level: float) -> float:
        return 1.0

    def slope(self, noisy: Tensor, output: Tensor, level: float) -> Tensor:
        return (noisy + output) / (1 + level)
