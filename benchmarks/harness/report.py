"""Pages, their index and README's table, rendered from the results."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .results import PAGES, ROOT, Claim, Column, Result, Row, Status, Table, Value, load_all
from .subject import Subject

RENDERED = "<!-- Rendered by `python benchmarks/run.py pages`; edit the result, not this page. -->"
BEGIN, END = "<!-- claims: rendered by benchmarks/run.py -->", "<!-- /claims -->"
DUST = 1e-9
NOT_RUN = " (not measured yet)"
WORDS = {Status.MISSED: "**missed**"}


def page(result: Result) -> str:
    """A result as Markdown."""
    lines = [f"# {result.title}", "", f"    {result.command}", "", _stamped(result)]
    for paragraph in result.about:
        lines += ["", paragraph]
    before, after = [], []
    for section in result.sections:
        (after if section.heading else before).append(section)
    for section in before:
        lines += _section(section.heading, section.text, section.table, section.after)
    if result.claims:
        lines += ["", "## Claims", ""]
        lines += [result.claims_about, ""] if result.claims_about else []
        lines += claim_table(result.claims)
    for section in after:
        lines += _section(section.heading, section.text, section.table, section.after)
    if result.picture:
        file, caption = result.picture
        lines += ["", f"![{caption}]({file})"]
    return "\n".join([*lines, ""])


def _stamped(result: Result) -> str:
    made = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    return f"{result.date}, {result.machine}." + (f" {made}." if made else "")


def _section(heading: str, text: str, table: Table | None, after: str) -> list[str]:
    lines: list[str] = []
    if heading:
        lines += ["", f"## {heading}"]
    for part in (text, "\n".join(markdown(table)) if table else "", after):
        lines += ["", part] if part else []
    return lines


def markdown(table: Table) -> Iterator[str]:
    """A table's lines."""
    yield "| " + " | ".join(column.title for column in table.columns) + " |"
    yield "|" + "".join(f"---{'' if _is_words(table, c) else ':'}|" for c in table.columns)
    for row in table.rows:
        yield "| " + " | ".join(shown(row.get(c.key), c) for c in table.columns) + " |"


def _is_words(table: Table, column: Column) -> bool:
    return column.is_text or any(isinstance(row.get(column.key), str) for row in table.rows)


def shown(value: Value, column: Column) -> str:
    """A value as its column shows it."""
    digits = column.digits
    if isinstance(value, Mapping):
        parts = [number(value["mean"], digits)] if "mean" in value else []
        if "spread" in value:
            parts.append(f"± {number(value['spread'], digits)}")
        if "gain" in value:
            gain = described_gain(value, digits)
            parts.append(f"({gain})" if parts else gain)
        return " ".join(parts)
    if value is None:
        return ""
    if isinstance(value, (bool, str)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else number(value, digits)


def number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def described_gain(value: Row, digits: int) -> str:
    """A gain and its standard error, in bold if more than two of them."""
    gain, error = value["gain"], value.get("error")
    assert isinstance(gain, float | int)
    if not isinstance(error, float | int) or math.isnan(error):
        return f"{gain:+.{digits}f}"
    text = f"{gain:+.{digits}f} ± {error:.{digits}f}"
    return f"**{text}**" if value.get("sure", abs(gain) > 2 * error) else text


def claim_table(claims: Sequence[Claim]) -> Iterator[str]:
    """A row for every claim, with only those columns that say something."""
    with_measure = any(claim.measure for claim in claims)
    with_limit = any(_limit(claim) for claim in claims)
    with_need = any(claim.needed for claim in claims)
    head = [
        "claim",
        *["measured by"] * with_measure,
        "found",
        *["promised"] * with_limit,
        "verdict",
    ]
    yield "| " + " | ".join([*head, *["things needed"] * with_need]) + " |"
    yield "|---|" + "---|" * with_measure + "--:|" + "---|" * with_limit + "---|" * (1 + with_need)
    for claim in claims:
        cells = [claim.says, *[claim.measure] * with_measure, found(claim)]
        cells += [_limit(claim)] * with_limit + [WORDS.get(claim.status, claim.status.value)]
        yield "| " + " | ".join([*cells, *[str(claim.needed or "")] * with_need]) + " |"


def found(claim: Claim) -> str:
    """The figure of a claim."""
    if claim.found is None or isinstance(claim.found, str):
        return claim.found or ""
    if claim.error is None:
        return f"{claim.found:.4g}"
    figures = (claim.found, claim.error)
    is_rounded = all(abs(round(figure, 2) - figure) < DUST for figure in figures)
    digits = 3 if max(map(abs, figures)) < 0.1 and not is_rounded else 2
    sure = claim.status is not Status.UNSURE and not claim.margin
    return described_gain({"gain": claim.found, "error": claim.error, "sure": sure}, digits)


def _limit(claim: Claim) -> str:
    if claim.at_most is not None:
        return f"at most {claim.at_most:g}"
    if claim.at_least is not None:
        return f"at least {claim.at_least:g}"
    return f"at most {claim.margin:g} worse" if claim.margin else ""


def counts(claims: Iterable[Claim]) -> dict[str, int]:
    """How many claims are met, missed, not sure and not measured."""
    counted = Counter(claim.status for claim in claims)
    return {status.value: counted[status] for status in Status}


def index(subjects: Sequence[Subject], made: Mapping[str, Result], by_hand: Sequence[str]) -> str:
    """`docs/results/README.md`: every page with its command.

    Args:
        by_hand: rows of pages that no benchmark writes.
    """
    lines = [
        "# Results",
        "",
        RENDERED,
        "",
        "Each page shows one benchmark; its figures are in `benchmarks/results` as JSON, with "
        "command, machine, date and versions. `python benchmarks/run.py` lists all benchmarks; "
        "speed benchmarks take `--device cuda` and a real `--checkpoint`. Finished work below "
        "`runs/` is not repeated; `--quick` only shows that everything runs.",
        "",
        "| page | command |",
        "|---|---|",
    ]
    for subject in subjects:
        result = made.get(subject.page)
        name = (
            f"[{subject.title}]({subject.page}.md)"
            if result
            else f"{subject.title}{subject.needs or NOT_RUN}"
        )
        lines.append(f"| {name} | `{result.command if result else subject.command}` |")
        labelled = sorted(page for page in made if page.startswith(f"{subject.page}@"))
        lines += [
            f"| [{subject.title}, {page.partition('@')[2]}]({page}.md) | `{made[page].command}` |"
            for page in labelled
        ]
    return "\n".join([*lines, *by_hand, ""])


def summary(made: Mapping[str, Sequence[Claim]]) -> list[str]:
    """README's table: how the claims of each topic stand."""
    lines = [
        "| | " + " | ".join(status.value for status in Status) + " |",
        "|---|" + "--:|" * len(Status),
    ]
    for topic, claims in made.items():
        lines.append(f"| {topic} | " + " | ".join(map(str, counts(claims).values())) + " |")
    return lines


def write_summary(lines: Sequence[str], readme: Path = ROOT / "README.md") -> None:
    """Put README's table between its marks."""
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text("\n".join([before + BEGIN, *lines, END]) + after, encoding="utf-8")


def write_pages(subjects: Sequence[Subject], by_hand: Sequence[str], folder: Path = PAGES) -> None:
    """All pages and their index."""
    made = load_all()
    for result in made.values():
        (folder / f"{result.page}.md").write_text(page(result), encoding="utf-8")
    (folder / "README.md").write_text(index(subjects, made, by_hand), encoding="utf-8")
