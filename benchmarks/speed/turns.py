"""Variants of one step that take turns in one process, on one model or several."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from harness.interleaved import describe, interleaved, paired_ratio
from harness.machine import load_average
from harness.models import DTYPES, add_model_options, describe_model, latent_side, open_model
from harness.results import Claim, Column, Result, Row, Section, Table, bound, stamp
from harness.subject import Options, add_common_options

from conceptloom.host.diffusers import DiffusersHost

Steps = Mapping[str, Callable[[], object]]
QUICK = "tiny@16"  # model of quick runs


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a variant may take of the plain step; `why` names the reason for a model that misses."""

    says: str
    variant: str
    at_most: float | None = None
    at_least: float | None = None
    why: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Turns:
    """A comparison.

    Attributes:
        make: a step of every variant on a model, with latents of this side; the first is plain.
        models: "NAME" or "NAME@SIDE", where none is named.
        promises: limits that are judged on every model.
        per_step: steps that one call of a variant makes.
        about: paragraphs; after the tables come `notes`.
    """

    make: Callable[[DiffusersHost, int, Options], Steps]
    models: Sequence[str]
    promises: Sequence[Promise] = ()
    about: Sequence[str] = ()
    notes: str = ""
    titles: Mapping[str, str] | None = None
    per_step: Callable[[Options], int] = lambda options: 1
    after: Callable[[DiffusersHost, int, Options], tuple[str, list[Claim]]] | None = None


def add_options(
    parser: argparse.ArgumentParser, rounds: int, seconds: float = float("inf")
) -> None:
    """What every comparison takes."""
    add_common_options(parser)
    parser.add_argument(
        "--preset", nargs="*", help="NAME or NAME@SIDE in latent cells; with a checkpoint @SIDE"
    )
    add_model_options(parser, dtypes=tuple(DTYPES))
    parser.add_argument("--rounds", type=int, default=rounds, help="at most")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="after which no round begins"
    )


def compare(turns: Turns, options: Options) -> Result:
    """Measure every model, and build the result."""
    if options.device == "cpu":
        torch.set_num_threads(1)  # more of them burn time while they wait for each other
    asked = options.preset or ([""] if options.checkpoint else turns.models)
    if options.quick:
        asked, options.rounds = [QUICK], 1
    sections, claims = list[Section](), list[Claim]()
    for model in asked:
        name, _, chosen = model.partition("@")
        host = open_model(options, preset=name or "tiny")
        host.unet.eval()
        side = int(chosen or latent_side(host))
        fewest = min(options.rounds, 3)
        times = interleaved(
            turns.make(host, side, options), host.device.type, options.rounds, options.seconds,
            fewest=fewest,
        )  # fmt: skip
        label = name or options.checkpoint.name
        after, more = turns.after(host, side, options) if turns.after else ("", [])
        section = section_of(turns, label, side, times, turns.per_step(options))
        described = f"{describe_model(options, host, name)}."
        sections.append(
            Section(heading=section.heading, text=described, table=section.table, after=after)
        )
        claims += [*claims_of(turns.promises, label, times), *more]
    about = [*turns.about, f"Load average {load_average():.1f}."]
    if turns.notes:
        sections.append(Section(heading="Notes", text=turns.notes))
    return Result(
        **stamp(options.device, options.dtype, *["one CPU thread"] * (options.device == "cpu")),
        about=about, sections=sections, claims=claims,
    )  # fmt: skip


def section_of(
    turns: Turns, label: str, side: int, times: Mapping[str, Sequence[float]], per_step: int
) -> Section:
    """Milliseconds of a step, their spread, and the ratio to the plain one."""
    plain = next(iter(times.values()))
    limits = {promise.variant: promise for promise in turns.promises}
    rows: list[Row] = []
    for name, seconds in times.items():
        told, promise = describe(seconds), limits.get(name)
        rows.append(
            {
                "variant": (turns.titles or {}).get(name, name),
                "ms": 1000 * told["median"] / per_step,
                "iqr": 1000 * told["iqr"] / per_step,
                "of plain": paired_ratio(seconds, plain),
                "promised": promise.at_most if promise else None,
            }
        )
    count = len(plain)
    return Section(
        heading=f"{label}, latents {side}x{side}, {count} round{'s' * (count != 1)}",
        table=Table(name=label, columns=COLUMNS, rows=rows),
    )


COLUMNS = (
    Column(key="variant", title="variant", is_text=True),
    Column(key="ms", title="step, ms"),
    Column(key="iqr", title="IQR, ms"),
    Column(key="of plain", title="of plain", digits=3),
    Column(key="promised", title="at most"),
)


def claims_of(
    promises: Sequence[Promise], label: str, times: Mapping[str, Sequence[float]]
) -> Iterator[Claim]:
    """Each promise on one model."""
    plain = next(iter(times.values()))
    for promise in promises:
        if promise.variant in times:
            yield bound(
                f"{promise.says}, {label}", paired_ratio(times[promise.variant], plain),
                at_most=promise.at_most, at_least=promise.at_least,
                why=(promise.why or {}).get(label, ""),
            )  # fmt: skip
