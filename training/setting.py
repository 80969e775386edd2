"""Settings: fields of frozen dataclasses with help text and valid range.

    steps: int = setting(400, help="Optimizer steps.", minimum=0, maximum=100_000)

Nodes make widgets of them, the command line makes options, and `check_settings` checks values, so
that each number and each sentence exists once. Dataclasses nest; a field without `setting` is not
for users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from ..errors import ConfigError

Value = TypeVar("Value")
Config = TypeVar("Config")
_KEY = "setting"  # in a field's metadata


def _always(holder: Any) -> bool:
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Declaration of a field besides type and default.

    Attributes:
        help: what it does, then what low and high values do; a tooltip, and the help of an option.
        name: of the widget, and in batch files; "" is the field's own name.
        option: on the command line, with _ for -; "" is `name`.
        former: earlier names, still read from saved graphs and scripts.
        step: of the widget's arrows.
        rounding: of the widget's number; False disables it, None is the step.
        choices: word -> value, if only some values are possible; enums have their own.
        separators: separators of several values in one text.
        is_limit: False where the range is the widget's alone: strengths that add up, linked seeds.
        is_prompt: a text for the model; on nodes of several lines, with dynamic prompts.
        is_advanced: hidden until a user asks for all widgets.
        is_widget: False for settings that only presets decide, without a widget.
        panel: heading in the command's help; "" is that of the method.
        applies: False for a dataclass in which the setting has no effect.
    """

    help: str
    name: str = ""
    option: str = ""
    former: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    rounding: float | bool | None = None
    choices: Mapping[str, Any] = field(default_factory=dict[str, Any])
    separators: str = "\n"
    is_multiline: bool = False
    is_limit: bool = True
    is_prompt: bool = False
    is_advanced: bool = False
    is_widget: bool = True
    panel: str = ""
    applies: Callable[[Any], bool] = _always


def setting(default: Value, **declaration: Any) -> Value:
    """A dataclass field with a default and a `Setting`."""
    return field(default=default, metadata={_KEY: Setting(**declaration)})


@dataclass(frozen=True, slots=True)
class BoundSetting:
    """A setting in a config, with its value."""

    declared: Setting
    path: tuple[str, ...]  # attributes that lead to it, the last is the field's
    kind: type  # of the value, or of each of several
    is_several: bool  # a tuple of `kind`
    value: Any
    applies: bool

    @property
    def name(self) -> str:
        return self.declared.name or self.path[-1]

    @property
    def option(self) -> str:
        return self.declared.option or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and earlier ones."""
        return (self.name, *self.declared.former)

    @property
    def label(self) -> str:
        """What messages call it: its name, and its option where that is another."""
        return self.name if self.option == self.name else f"{self.name} ({self.option})"

    @property
    def choices(self) -> Mapping[str, Any]:
        """Word -> value; empty if all values of the kind are possible."""
        if issubclass(self.kind, Enum):
            return self.declared.choices or {str(one.value): one for one in self.kind}
        return self.declared.choices

    def parsed(self, value: Any) -> Any:
        """Convert the value of a widget, option or batch file for the field.

        Raises:
            ConfigError: it is not one of the choices.
        """
        if self.is_several:
            return _texts(value, self.declared.separators)
        if not self.choices:
            return value
        for word, meant in self.choices.items():
            if value in (word, meant):
                return meant
        raise ConfigError(self.option, value, _listed(self.choices))

    @property
    def _limits(self) -> tuple[float, float]:
        low, high = self.declared.minimum, self.declared.maximum
        if low is None or high is None or not self.declared.is_limit:
            return -math.inf, math.inf
        return low, high

    def check(self) -> None:
        """ConfigError where a number is outside of the declared range; None stands for a default.

        Words and lists of texts have no range.
        """
        if self.value is None or self.is_several or self.kind not in (int, float):
            return
        low, high = self._limits
        allowed = f"between {low:.10g} and {high:.10g}" if high < math.inf else ""
        if self.choices:
            allowed, is_allowed = _listed(self.choices), self.value in self.choices.values()
        elif self.kind is int:
            allowed = f"a whole number {allowed}".strip()
            is_whole = isinstance(self.value, int) and not isinstance(self.value, bool)
            is_allowed = is_whole and low <= self.value <= high
        else:
            is_allowed = low <= self.value <= high and math.isfinite(self.value)
            allowed = allowed or "a finite number"
        if not is_allowed:
            raise ConfigError(self.label, self.value, allowed)


def check_settings(config: Any) -> None:
    """ConfigError where a number of a config is outside of its setting's range.

    For `__post_init__`; nested configs check themselves.
    """
    for one in settings_in(config):
        if len(one.path) == 1:
            one.check()


def settings_in(config: Any) -> Iterator[BoundSetting]:
    """Every setting of a config, including nested configs, in order."""
    for one in fields(config):
        value = getattr(config, one.name)
        declared = one.metadata.get(_KEY)
        if declared is not None:
            kind, is_several = _kind_of(_hints(type(config))[one.name])
            yield BoundSetting(
                declared, (one.name,), kind, is_several, value, declared.applies(config)
            )
        elif is_dataclass(value) and not isinstance(value, type):
            for inner in settings_in(value):
                yield replace(inner, path=(one.name, *inner.path))


def changed(config: Config, values: Mapping[str, Any], owner: str = "this config") -> Config:
    """A config with other values; None changes none.

    Args:
        values: by current or earlier names of settings, or by names of options.

    Raises:
        ConfigError: a value is invalid, or `owner` has no such setting.
    """
    declared = list(settings_in(config))[::-1]  # the first of a name counts
    known = {one.option: one for one in declared}
    known |= {name: one for one in declared for name in one.names}
    tree: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            continue
        if name not in known:
            raise ConfigError("setting", name, f"a setting of {owner}")
        *way, last = known[name].path
        branch = tree
        for step in way:
            branch = branch.setdefault(step, {})
        branch[last] = known[name].parsed(value)
    return _replaced(config, tree)


def _replaced(config: Config, tree: Mapping[str, Any]) -> Config:
    """Replace all values at once, so that a config checks them together."""
    overrides = {
        name: _replaced(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in tree.items()
    }
    return replace(cast(Any, config), **overrides) if overrides else config


def _listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _texts(value: Any, separators: str) -> tuple[Any, ...]:
    """A text cut at the separators, or the entries of a list; without empty ones."""
    if not isinstance(value, str):
        return tuple(value)
    for other in separators[1:]:
        value = value.replace(other, separators[0])
    return tuple(filter(None, map(str.strip, value.split(separators[0]))))


@cache
def _hints(holder: type) -> Mapping[str, Any]:
    return MappingProxyType(get_type_hints(holder))


def _kind_of(hint: Any) -> tuple[type, bool]:
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    if get_origin(hint) is UnionType:  # None beside it stands for a default that is no number
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    return hint, False
