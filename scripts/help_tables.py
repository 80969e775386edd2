"""Build the tables of settings in web/docs/ and docs/settings.md from what the methods declare.

.venv/bin/python scripts/help_tables.py           write them
.venv/bin/python scripts/help_tables.py --check   only say which are stale
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from conceptloom.attention.lag_config import LagConfig
from conceptloom.methods.clic.matching import ReadConfig
from conceptloom.methods.concept_weaver.config import InversionConfig, RegionConfig, WeaveConfig
from conceptloom.methods.conceptlab.config import LOOKS
from conceptloom.methods.conceptlab.spec import EVOLUTION, SPEC
from conceptloom.methods.registry import method_specs, settings_of_folder
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.training.method_spec import RunSettings, Takes, settings_for
from conceptloom.training.setting import BoundSetting, settings_in

ROOT = Path(__file__).resolve().parents[1]
PAGES, REFERENCE = ROOT / "web" / "docs", ROOT / "docs" / "settings.md"
BEGIN = "<!-- Settings: scripts/make-help writes this table. -->"
END = "<!-- End of the settings. -->"
# Widgets that the nodes which learn have beside the settings of their method.
OF_THE_NODE = {"preview_every", "preview_prompts", "preview_steps", "preview_cfg", "keep_state"}
OF_THE_LOOP = {"max_grad_norm", "weight_decay"}
ALL = "all"
HEAD = ("Setting", "Option", "Description", "Default", "Values")


@dataclass(frozen=True, slots=True)
class Page:
    """The settings of one node.

    Attributes:
        configs: what declares them.
        without, only: names that the node has no widget for; names that it has one for.
        helps: texts that the node has of its own, by name.
    """

    configs: Sequence[Any]
    without: Collection[str] = ()
    only: Collection[str] = ()
    helps: Mapping[str, str] = field(default_factory=dict[str, str])

    def settings(self) -> Iterator[BoundSetting]:
        for config in self.configs:
            for one in settings_in(config):
                is_shown = one.applies and one.declared.is_widget and one.name not in self.without
                if is_shown and (not self.only or one.name in self.only):
                    yield one


@dataclass(frozen=True, slots=True)
class Section:
    """The settings of something that draws, in docs/settings.md.

    Attributes:
        command: of the command line that takes them; "" for none.
        nodes: that take them.
        options: what the column says where a setting has no option of its own name.
    """

    title: str
    command: str
    nodes: str
    config: Any
    options: Mapping[str, str] = field(default_factory=dict[str, str])

    def option(self, one: BoundSetting) -> str:
        if not self.command:
            return ""
        flag = f"`--{one.option.replace('_', '-')}`"
        return self.options.get(one.name, flag)


NO_OPTION = ""
DRAWING = (
    Section(
        "LAG sampling",
        "sample",
        "*Apply LAG*, *LAG Sampler* and *LAG Maps*",
        LagConfig(),
        {"strength": "`--concept FILE:STRENGTH`", "localised": "`--lag`"},
    ),
    Section(
        "Edits under a mask",
        "transfer",
        "*Masked Blended Edit*, *Masked Blended Sampler* and *Cross-Attention Guidance*",
        EditConfig(guidance=GuidanceConfig()),
    ),
    Section(
        "Weaving: the template",
        "weave",
        "*Invert Template*",
        InversionConfig(),
        {name: NO_OPTION for name in ("refinements", "resnet_until", "attention_until")},
    ),
    Section("Weaving: the regions", "weave", "*Regions*", RegionConfig()),
    Section(
        "Weaving: the picture",
        "weave",
        "*Weave Concepts* and *Region Feature Fuser*",
        WeaveConfig(),
        {"mixing": "`--score-mixing`"},
    ),
    Section("RoI Matching", "", "*RoI Matching* and *Concept Discovery*", ReadConfig()),
)


def pages() -> dict[str, Page]:
    """Node -> its settings."""
    mix = (
        *("steps", "learning_rate", "look_every", "seed", "positive_ceiling", "initialiser_word"),
        *("initialiser", "prior_steps", "prior_guidance", "checkpointing", "templates", "gallery"),
        *("gallery_seed", "save_every"),
    )
    lag, blend, read = Page([LagConfig()]), Page([BlendConfig()]), Page([ReadConfig()])
    learning = OF_THE_NODE | OF_THE_LOOP
    residuals = settings_of_folder("personalized_residuals")
    return {
        "TrainPersonalizedResiduals": Page([residuals], without=learning),
        "AdaptiveNegativesTrainer": Page([settings_for(SPEC)], without=learning),
        "ConceptMixing": Page([settings_for(SPEC)], only=mix, helps={"look_every": LOOKS}),
        "EvolveConcepts": Page([settings_for(EVOLUTION)], without=learning),
        "ApplyLag": lag,
        "LagSampler": lag,
        "LagMaps": lag,
        "MaskedBlendedSampler": blend,
        "MaskedBlendedEdit": blend,
        "RoIMatching": read,
        "ConceptDiscovery": read,
    }


def files() -> dict[Path, str]:
    """Every file with tables, as it should be."""
    made = {REFERENCE: reference()}
    for node, page in pages().items():
        rows = [
            (f"`{one.name}`", _text(page.helps.get(one.name, one.declared.help)), *_values(one))
            for one in page.settings()
        ]
        path = PAGES / f"ConceptLoom{node}.md"
        made[path] = _filled(path, _table(("Setting", "Description", "Default", "Values"), rows))
    path = PAGES / "ConceptLoomCrossAttentionLossTrainer.md"
    made[path] = _filled(path, _table(("Setting", "Description", "Presets of"), _of_presets()))
    return made


def _of_presets() -> list[tuple[str, ...]]:
    """Settings of all methods that learn from a scene; those of all of them first."""
    specs = method_specs(Takes.SCENE)
    titles_of: dict[tuple[str, str], list[str]] = {}
    for spec in specs:
        for preset in spec.presets:
            page = Page([preset.config, preset.loop], without=OF_THE_NODE | {"seed"})
            for one in page.settings():
                titles = titles_of.setdefault((one.name, one.declared.help), [])
                titles += [] if spec.title in titles else [spec.title]
    rows = [
        (f"`{name}`", _text(help), ALL if len(titles) == len(specs) else ", ".join(titles))
        for (name, help), titles in titles_of.items()
    ]
    return sorted(rows, key=lambda row: row[2] != ALL)


def reference() -> str:
    """docs/settings.md: every setting of every method, with its option."""
    parts = [
        "# Settings",
        "Written by `scripts/make-help` from the code. Defaults are the paper's; TinyWorld has its "
        "own. Methods that learn come first, then what draws with the concepts.",
    ]
    for spec in (*method_specs(), EVOLUTION):
        run: RunSettings = settings_for(spec)
        unused = (
            OF_THE_NODE - {"keep_state"} | {"preview_seed"} if spec.takes is Takes.PRIOR else ()
        )
        rows = [
            _row(one.name, f"`--{one.option.replace('_', '-')}`", one)
            for one in settings_in(run)
            if one.name not in unused
        ]
        parts += [f"## {spec.title}", _table(HEAD, rows)]
    for section in DRAWING:
        where = f"Command: `conceptloom {section.command}`. " if section.command else ""
        rows = [
            _row(".".join((*one.path[:-1], one.name)), section.option(one), one)
            for one in settings_in(section.config)
        ]
        parts += [f"## {section.title}", f"{where}Nodes: {section.nodes}.", _table(HEAD, rows)]
    return "\n\n".join(parts) + "\n"


def _row(name: str, option: str, one: BoundSetting) -> tuple[str, ...]:
    return f"`{name}`", option, _text(one.declared.help), *_values(one)


def _filled(path: Path, table: str) -> str:
    """A page with the table between its marks.

    Raises:
        ValueError: the page has no marks.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path.name} has no place for its settings: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _values(one: BoundSetting) -> tuple[str, str]:
    """Default, and what is possible."""
    declared = one.declared
    if one.choices:
        default = next(word for word, value in one.choices.items() if value == one.value)
        return default, ", ".join(one.choices)
    if one.kind is bool:
        return "on" if one.value else "off", "on, off"
    if one.is_several or one.kind is str:
        text = declared.separators[0].join(one.value) if one.is_several else one.value
        return _text(text), "text"
    low, high = (_number(limit) for limit in (declared.minimum, declared.maximum))
    return _number(one.value), f"{low} to {high}"


def _number(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _text(text: str | Enum) -> str:
    """On one line of a Markdown table."""
    return str(text).replace("<", "\\<").replace("|", "\\|").replace("\n", "; ").strip()


def main() -> int:
    """Write, or with --check compare; the exit code counts stale files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [
        path
        for path, text in files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    if not check:
        made = files()
        for path in stale:
            path.write_text(made[path], encoding="utf-8")
    return len(stale) if check else 0


if __name__ == "__main__":
    raise SystemExit(main())
