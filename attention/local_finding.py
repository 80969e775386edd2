"""The masks of one sampling run: located in its first steps, thresholded once, then fixed.

A LoRA may work before, faded in, inside of what was located so far; and masks may be made a second
time from a later step, which shows the objects as they have become with their LoRAs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .local_lora import LocalLora
from .local_masks import REMEMBERED, MaskMeans, cut_masks, levelled, on_grid, settled
from .local_schedule import Schedule

OnMasks = Callable[[Tensor], None]  # masks [P, G, h, w] of a run, as soon as they are cut


class RunMasks:
    """Collects attention while LoRAs are looked for, and gives masks from then on.

    Where there are no numbered steps, and where a pass has another size than those that the masks
    were found in (tiles), the attention of the same pass counts, as far as it has come.
    """

    def __init__(
        self, loras: Sequence[LocalLora], schedule: Schedule, on_masks: OnMasks | None = None
    ) -> None:
        self._loras, self._schedule, self._on_masks = loras, schedule, on_masks
        self._is_exact = [lora.is_exact for lora in loras]
        self.needs_finding = not all(self._is_exact)
        self._step = -1
        self._forget()

    def _forget(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._before: Tensor | None = None  # attention up to the step before the latest
        self._latest: tuple[int, Tensor] | None = None  # step, the strongest of its passes
        self._sum: Tensor | None = None  # over the layers of this pass
        self._count = 0
        self._kept: Tensor | None = None
        self._is_second = False  # whether they were made a second time
        self._early: Tensor | None = None  # faded in, of the steps before this one
        self._painted_masks: Tensor | None = None  # as long as nothing was found
        self._cut_now: tuple[int, Tensor] | None = None  # of this pass: layers seen, masks
        self.same_pass = False

    def begin(self, timestep: float, shape: tuple[int, int, int]) -> bool:
        """A pass over so many pictures of (h, w) begins; whether it is the first of another run."""
        step = self._schedule.step(timestep) if self._schedule.times is not None else -1
        is_first = step == 0 and step < self._step
        if is_first:
            self._forget()
        is_new, self._step = step != self._step, step
        self._sum, self._count, self._cut_now = None, 0, None
        self._shape = self._shape or shape
        self.same_pass = step < 0 or shape != self._shape
        if not self.same_pass and self._latest is not None:
            self._make(self._latest, is_new=is_new)
        return is_first

    def _make(self, latest: tuple[int, Tensor], *, is_new: bool) -> None:
        """Masks of the attention so far, where this step begins with others than the last.

        Args:
            latest: step and attention.
        """
        if self._kept is None and self._step < self._finding_steps():
            if is_new:
                self._early = self._faded(latest[1])
            return
        again = self._second_look()
        is_again = again is not None and not self._is_second and latest[0] == again < self._step
        if self._kept is None or is_again:
            self._is_second = is_again
            self._kept, self._early = self._cut(self._blended(latest[1])), None
            if self._on_masks is not None and (again is None or is_again):
                self._on_masks(self._kept)

    def _faded(self, latest: Tensor) -> Tensor | None:
        """Masks so far, as much of them as LoRAs may have while they are looked for."""
        if not any(lora.config.fade_in for lora in self._loras if not lora.is_exact):
            return None
        part = self._step / self._finding_steps()
        share = [1.0 if lora.is_exact else part * lora.config.fade_in for lora in self._loras]
        masks = self._cut(self._blended(latest))
        return masks * masks.new_tensor(share)[:, None, None]

    def _finding_steps(self) -> int:
        """Found masks compete, so all are cut at once."""
        shares = [lora.config.found_after for lora in self._loras if not lora.is_exact]
        return max((self._schedule.finding_steps(share) for share in shares), default=0)

    def _second_look(self) -> int | None:
        """The step that looks again for all of them, at the earliest that one asks for."""
        shares = [lora.config.second_look for lora in self._loras if not lora.is_exact]
        return self._schedule.second_look(min(shares, default=1.0), self._finding_steps())

    @property
    def is_finding(self) -> bool:
        """Whether attention of this pass is of use."""
        if not self.needs_finding or self.same_pass or self._kept is None:
            return self.needs_finding
        return not self._is_second and self._step == self._second_look()

    def watch(self, attention: Tensor, grid: tuple[int, int]) -> None:
        """Attention [P, G, N] of one layer to the words of every LoRA."""
        plane = levelled(attention).unflatten(-1, grid)
        if self._sum is not None and plane.shape != self._sum.shape:
            plane = F.interpolate(plane, self._sum.shape[-2:], mode="area")
        self._sum = plane if self._sum is None else self._sum + plane
        self._count += 1

    def end(self) -> None:
        """The pass is over."""
        if self._sum is not None and self._schedule.times is None and self._on_masks is not None:
            self._on_masks(self._cut(self._sum / self._count))
        if self._sum is not None and not self.same_pass and self.is_finding:
            self._collect(self._sum / self._count)
        self._sum, self._cut_now = None, None

    def _collect(self, now: Tensor) -> None:
        """Attention [P, G, h, w] of a pass; zeros where it has no such picture or words.

        Other prompts and other pictures may follow at the same step, so a step is blended with
        those before it when all of its passes are over.
        """
        if self._latest is None or self._latest[1].shape != now.shape:
            self._before = None
        elif self._latest[0] == self._step:
            now = torch.maximum(self._latest[1], now)
        else:
            self._before = self._blended(self._latest[1])
        self._latest = self._step, now

    def _blended(self, latest: Tensor) -> Tensor:
        """Attention of a step together with that of the steps before it."""
        if self._before is None:
            return latest
        return REMEMBERED * self._before + (1 - REMEMBERED) * latest

    def active(self, g: int) -> bool:
        """Whether a LoRA may work at this step at all."""
        if self._loras[g].is_off:
            return False
        if self._step >= 0 and self._schedule.is_over(self._step, self._loras[g].config.end):
            return False
        if self._is_exact[g] or self.same_pass or self._kept is not None:
            return True
        return self._early is not None and self._loras[g].config.fade_in > 0

    def masks(self, device: torch.device) -> Tensor:
        """[P, G, h, w] at this moment; without fading in, found ones are 0 while looked for."""
        if self.same_pass and self._sum is not None:
            if self._cut_now is None or self._cut_now[0] != self._count:
                self._cut_now = self._count, self._cut(self._sum / self._count)
            return self._cut_now[1]
        made = self._early if self._kept is None else self._kept
        if not self.same_pass and made is not None:
            return made
        if self._painted_masks is None or self._painted_masks.device != device:
            self._painted_masks = self._painted_only(device)
        return self._painted_masks

    def _cut(self, attention: Tensor) -> Tensor:
        attention = self._inside(attention.float())
        masks_of_words = cut_masks(attention, [lora.config.cut for lora in self._loras])
        painted = self._painted((attention.shape[-2], attention.shape[-1]), attention.device)
        return settled(masks_of_words, painted, self._is_exact)

    def _inside(self, attention: Tensor) -> Tensor:
        """Attention inside of the masks that say somewhere; the mask itself where it is nowhere."""
        grid = (attention.shape[-2], attention.shape[-1])
        planes: list[Tensor] = []
        for g, lora in enumerate(self._loras):
            plane = attention[:, g]
            if lora.mask is not None and lora.config.mask_means is MaskMeans.SOMEWHERE:
                allowed = on_grid(lora.mask[None, None].to(plane), grid)[:, 0]
                inside = plane * allowed
                empty = inside.amax((-2, -1), keepdim=True) <= 0
                plane = torch.where(empty, allowed, inside)
            planes.append(plane)
        return torch.stack(planes, dim=1)

    def _painted(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        nothing = torch.zeros(1, 1, *grid, device=device)
        return torch.cat(
            [
                on_grid(lora.mask[None, None].float().to(device), grid)
                if lora.is_exact and lora.mask is not None
                else nothing
                for lora in self._loras
            ],
            dim=1,
        )

    def _painted_only(self, device: torch.device) -> Tensor:
        """Painted masks as fine as they are painted, and nothing of the others."""
        sizes = [lora.mask.shape for lora in self._loras if lora.is_exact and lora.mask is not None]
        grid = max((tuple(size) for size in sizes), default=(1, 1))
        painted = self._painted((grid[0], grid[1]), device)
        nothing = torch.zeros_like(painted)
        return settled(nothing, painted, self._is_exact).expand(self._shape[0], -1, -1, -1)
