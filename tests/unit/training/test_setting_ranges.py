"""Every number that a user sets is checked by the range that its setting declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any

import pytest

from conceptloom.attention.lag_config import LagConfig
from conceptloom.errors import ConfigError
from conceptloom.methods.clic import CLiCConfig
from conceptloom.methods.clic.matching import MatchConfig
from conceptloom.methods.concept_weaver import InversionConfig, RegionConfig, WeaveConfig
from conceptloom.methods.registry import method_specs
from conceptloom.samplers.editing import EditConfig
from conceptloom.training.method_spec import run_settings
from conceptloom.training.setting import BoundSetting, settings_in

CONFIGS = (
    LagConfig(),
    MatchConfig(),
    InversionConfig(),
    RegionConfig(),
    WeaveConfig(),
    EditConfig(),
)


def every_config() -> Iterator[Any]:
    yield from CONFIGS
    for spec in method_specs():
        for preset in spec.presets:
            yield run_settings(spec, preset)


def holder_of(config: Any, one: BoundSetting) -> Any:
    """The dataclass with the setting's field."""
    for name in one.path[:-1]:
        config = getattr(config, name)
    assert is_dataclass(config)
    return config


def test_numbers_outside_of_a_range_are_refused() -> None:
    count = 0
    for config in every_config():
        for one in settings_in(config):
            if one.is_several or one.kind not in (int, float) or one.choices:
                continue
            if not one.declared.is_limit:
                continue
            low, high = one.declared.minimum, one.declared.maximum
            assert low is not None
            holder, field = holder_of(config, one), one.path[-1]
            for wrong in (low - 1, high + 1, float("nan")):
                with pytest.raises(ConfigError, match=f"^{one.name} "):
                    replace(holder, **{field: wrong})
                count += 1
    assert count > 300


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_ends_of_a_range_are_in_it(end: float) -> None:
    assert LagConfig(quantile=end).quantile == end


def test_seeds_of_the_hosts_samplers_are_taken() -> None:
    assert CLiCConfig(seed=2**64 - 1).seed == 2**64 - 1
    with pytest.raises(ConfigError, match=r"^seed is 0\.5; it must be a whole number\."):
        CLiCConfig(seed=0.5)  # type: ignore[arg-type]


def test_strengths_may_add_up_beyond_the_widget() -> None:
    assert LagConfig(strength=6.0).strength == 6.0
    with pytest.raises(ConfigError, match=r"^strength is inf; it must be a finite number\."):
        LagConfig(strength=float("inf"))


def test_whole_numbers_are_whole() -> None:
    for wrong in (2.5, True):
        with pytest.raises(ConfigError, match="a whole number between 1 and 1000"):
            InversionConfig(steps=wrong)  # type: ignore[arg-type]
