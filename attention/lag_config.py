"""How LAG sampling localises one concept: every setting, with the words that users read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..errors import ConfigError
from ..training.setting import check_settings, setting


class Unconditional(str, Enum):
    """Where the residual works in rows of the negative prompt, without the concept."""

    SAME = "same mask"  # that of the positive prompt of the same picture
    BASE = "nowhere"  # the base model alone
    EVERYWHERE = "everywhere"  # as a LoRA would


def _share(option: str, default: float, help: str) -> float:
    limits: dict[str, float] = {"minimum": 0.0, "maximum": 1.0, "step": 0.01}
    return setting(default, option=option, help=help, is_advanced=True, **limits)


def _width(option: str, most: float, help: str) -> float:
    limits: dict[str, float] = {"minimum": 0.0, "maximum": most, "step": 0.05}
    return setting(0.0, option=option, help=help, is_advanced=True, **limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class LagConfig:
    """How one concept is localised: the paper's values, or ours if it has none."""

    strength: float = setting(  # factor of the residual
        1.0,
        help="Strength of the residual inside the concept's region. 0 is the base model, bit for "
        "bit; 1 is as trained; more exaggerates.",
        minimum=-4.0,
        maximum=4.0,
        step=0.05,
        is_limit=False,  # strengths of a concept that is applied twice add up
    )
    localised: bool = setting(  # False: no attention is read
        True,
        help="On: LAG applies the residual only where the picture attends to the name. Off: the "
        "residual works everywhere, like a plain LoRA. Compare both: some pictures are better "
        "without LAG.",
    )
    quantile: float = _share(  # of the attention that is left out
        "quantile",
        0.5,
        "Share of each block's positions that stay with the base model. 0.5 is the paper's "
        "median; 0 excludes nothing, 1 everything. Raise it for small objects.",
    )
    softness: float = _width(
        "lag_softness",
        4.0,
        "Softness of the mask's edge, in standard deviations of the attention. 0 is the paper's "
        "hard edge; 1 fades gently.",
    )
    smoothing: float = _width(
        "lag_smoothing",
        8.0,
        "Blur of the attention before thresholding, in cells of the block's map. 0 disables it; 1 "
        "closes holes.",
    )
    start: float = _share(
        "lag_start",
        0.0,
        "Start, as a share of the schedule; before it only the base model draws. 0 starts at once; "
        "0.2 leaves the layout to the base model.",
    )
    end: float = _share(
        "lag_end",
        1.0,
        "End, as a share of the schedule; after it only the base model draws. 1 continues to the "
        "end; 0.8 leaves fine detail to the base model.",
    )
    unconditional: Unconditional = setting(
        Unconditional.SAME,
        name="negative_rows",
        option="lag_negative_rows",
        help="Where the residual works in the negative prompt's pass, which does not contain the "
        "name. Same mask: in the positive prompt's region. Nowhere: base model, stronger effect. "
        "Everywhere: like a plain LoRA.",
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.start > self.end:
            raise ConfigError("start", self.start, f"no more than end, which is {self.end}")

    @property
    def shape(self) -> tuple[float, float, float]:
        """Settings of a mask besides the attention."""
        return self.quantile, self.softness, self.smoothing

    @property
    def is_plain(self) -> bool:
        """Whether every row uses the mask itself."""
        return self.localised and self.unconditional is Unconditional.SAME
