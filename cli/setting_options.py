"""Command-line options, derived from the settings that configs declare.

Methods import torch, so a command with such options is built when it is called; the list of
commands shows a stub of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from keyword import iskeyword
from typing import Annotated, Any, TypeVar, cast

import typer

from ..training.common_settings import LEARNING
from ..training.method_spec import RunSettings
from ..training.setting import BoundSetting, changed, settings_in
from .options import with_signature

Declared = tuple[str, BoundSetting]  # heading of a config, and a setting of it
Config = TypeVar("Config")


def with_options(
    function: Callable[..., Any],
    configs: Mapping[str, Any],
    *more: inspect.Parameter,
    without: Collection[str] = (),
) -> Callable[..., Any]:
    """A function that takes `**settings`, with an option for every setting of some configs.

    Args:
        configs: heading in the command's help -> a config, or the settings of a run.
        more: parameters of the function with choices that depend on the methods.
        without: names of settings without effect in this command.
    """
    signature = inspect.signature(function, eval_str=True)
    late = {p.name: p for p in more}
    own = [late.get(p.name, p) for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]

    def command(**values: Any) -> None:
        function(**values)

    return with_signature(command, function, [*own, *_options(configs, without)])


def option(
    name: str,
    kind: Any,
    help: str,
    panel: str | None = None,
    default: Any = None,
    *,
    shown: str = "",
    is_hidden: bool = False,
) -> Any:
    """One keyword parameter as Typer reads it.

    Args:
        shown: in the help as the default, where None stands for it.
        is_hidden: read, but not listed.
    """
    # A word of Python, such as "not", cannot name a parameter; its option can.
    flags = [f"--{name}"] if iskeyword(name) else []
    declaration = typer.Option(
        *flags,
        help=help,
        rich_help_panel=panel,
        show_default=shown or default is not None,
        hidden=is_hidden,
    )
    return inspect.Parameter(
        f"{name}_" if flags else name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, declaration],
    )


def names_of(words: Iterable[str]) -> Any:
    """A choice of words as Typer takes it."""
    return Enum("Words", {word: word for word in words}, type=str)


def changed_by_options(config: Config, options: Mapping[str, Any]) -> Config:
    """A config, or the settings of a run, with what options say; None and [] leave one as it is.

    Raises:
        ConfigError: a value is invalid, or there is no such setting.
    """
    values: dict[str, Any] = {}
    for parameter, value in options.items():
        value = value.value if isinstance(value, Enum) and isinstance(value, str) else value
        if value is not None and value != []:
            values[parameter.removesuffix("_")] = value  # see `option`
    if isinstance(config, RunSettings):
        return cast(Any, config.changed(values))
    return changed(config, values)


def _options(configs: Mapping[str, Any], without: Collection[str]) -> list[inspect.Parameter]:
    """Every setting once, those that several methods share before those of one."""
    places: dict[str, list[Declared]] = {}
    for title, config in configs.items():
        for one in (one for one in settings_in(config) if one.name not in without):
            places.setdefault(one.option, []).append((title, one))
    made = [_option_of(name, declared, configs) for name, declared in places.items()]
    former = {
        old: declared[0][1]
        for declared in places.values()
        for old in declared[0][1].declared.former
    }
    return [
        *(parameter for _, parameter in sorted(made, key=lambda pair: pair[0])),
        *(option(old, _kind(one) | None, "", is_hidden=True) for old, one in former.items()),
    ]


def _option_of(
    name: str, places: Sequence[Declared], configs: Mapping[str, Any]
) -> tuple[bool, inspect.Parameter]:
    """Whether a setting is of one method among several, and its option.

    A preset decides the defaults of a run, so only other configs show theirs.
    """
    title, first = places[0]
    alone = len(configs) == 1
    is_own = len(places) == 1 and not alone and not first.declared.panel
    panel = first.declared.panel or (title if is_own or alone else LEARNING)
    shown = "" if isinstance(configs[title], RunSettings) else _shown(first.value)
    return is_own, option(name, _kind(first) | None, _help(places), panel, shown=shown)


def _shown(value: Any) -> str:
    return str(getattr(value, "value", value))


def _help(places: Sequence[Declared]) -> str:
    """The one sentence, or each method's own."""
    helps = {one.declared.help: title for title, one in reversed(places)}
    if len(helps) == 1:
        return next(iter(helps))
    return " ".join(f"{title}: {text}" for text, title in reversed(helps.items()))


def _kind(one: BoundSetting) -> Any:
    if one.is_several:
        return list[str]
    if one.choices and one.kind is not int:
        return names_of(one.choices)
    return one.kind
