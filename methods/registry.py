"""The methods that are there: every folder beside this file with a `spec.py` in it.

A method is found by being there; no list names it. Specs are imported when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

from ..errors import ConfigError
from ..training.method_spec import (
    MethodPreset,
    MethodSpec,
    RunSettings,
    Takes,
    run_settings,
    settings_for,
)

_PACKAGE = __name__.rpartition(".")[0]


def method_specs(takes: Takes | None = None) -> tuple[MethodSpec, ...]:
    """Every method, or those that learn from one kind of input, by the names of their folders."""
    folders = sorted(
        module.name for module in iter_modules(import_module(_PACKAGE).__path__) if module.ispkg
    )
    modules = [f"{_PACKAGE}.{folder}.spec" for folder in folders]
    specs = [import_module(name).SPEC for name in modules if find_spec(name)]
    return tuple(spec for spec in specs if takes in (None, spec.takes))


def scene_presets() -> Iterator[tuple[MethodSpec, MethodPreset]]:
    """Every preset of every method that learns from a scene."""
    for spec in method_specs(Takes.SCENE):
        for preset in spec.presets:
            yield spec, preset


def method_options() -> tuple[str, ...]:
    """What `train --method` takes, those of nothing but TinyWorld left out."""
    return tuple(p.option for _, p in scene_presets() if p.option and not p.family)


def settings_of_folder(name: str, family: str = "") -> RunSettings:
    """What a method starts from on a family of models; on any other where it has no such numbers.

    Args:
        name: of the method's folder.
    """
    return settings_for(next(spec for spec in method_specs() if spec.name == name), family)


def settings_of_preset(title: str) -> RunSettings:
    """What a preset of the trainer's list starts from.

    Raises:
        ConfigError: there is no such preset.
    """
    for spec, preset in scene_presets():
        if title and preset.title == title:
            return run_settings(spec, preset)
    known = [preset.title for _, preset in scene_presets() if preset.title]
    raise ConfigError("preset", title, f"one of {', '.join(known)}")


def settings_of_method(option: str, family: str = "", *, is_strict: bool = False) -> RunSettings:
    """What a method of the command line starts from.

    Args:
        family: of the base model; without numbers for it, a method starts from its usual ones.
        is_strict: raise instead.

    Raises:
        ConfigError: there is no such method, or it has no numbers for the family.
    """
    presets = {
        p.family: (spec, p) for spec, p in scene_presets() if p.option and p.option == option
    }
    if not presets:
        raise ConfigError("method", option, f"one of {', '.join(method_options())}")
    if family not in presets and is_strict:
        raise ConfigError("preset", family, f"official: {option} has no numbers for {family}")
    return run_settings(*presets.get(family, presets[""]))
