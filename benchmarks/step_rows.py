"""What the steps of variants took, set beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from turns import Row
from turns import ratio as paired

TIMES = ("seconds", "cpu")
PLAIN, OFFICIAL = "plain", "official"  # variants that all others are compared with

Group = dict[str, list[Row]]  # variant -> what its steps took; these took turns with each other
Promise = tuple[str, str, str]  # in words; ratio of one variant to another


def peak_of(rows: Sequence[Row]) -> int:
    return max(row["peak"] for row in rows)


def ratio(groups: list[Group], name: str, other: str, bridge: str) -> dict[str, float] | None:
    """Median over the rounds of the ratio within a round; the first round warms up.

    Where the two took no turns with each other, both are compared with the bridge.
    """
    if name == other:
        return None
    for group in groups:
        if name in group and other in group:
            return _paired(group, name, other)
    first = next((g for g in groups if name in g and bridge in g), None)
    second = next((g for g in groups if other in g and bridge in g), None)
    if first is None or second is None:
        return None
    halves = _paired(first, name, bridge), _paired(second, bridge, other)
    return {key: halves[0][key] * halves[1][key] for key in TIMES}


def _paired(group: Group, name: str, other: str) -> dict[str, float]:
    return {key: paired(group[name], group[other], key) for key in TIMES}


def promised(groups: list[Group], promises: Sequence[Promise], bridge: str) -> Iterator[str]:
    """A table of ratios that were promised, and what was found."""
    yield from ("| promised | wall | CPU |", "|---|--:|--:|")
    for told, name, other in promises:
        if found := ratio(groups, name, other, bridge):
            yield f"| {told} | {found['seconds']:.3f} | {found['cpu']:.3f} |"


def largest_difference(ours: Sequence[Row], theirs: Sequence[Row]) -> float:
    """Over all steps and loss terms, relative."""
    return max(
        abs(a["losses"][name] / value - 1)
        for a, b in zip(ours, theirs, strict=True)
        for name, value in b["losses"].items()
    )


def beside_official(groups: list[Group], name: str, limit: float | None = None) -> Iterator[str]:
    """Memory and losses of one of ours, where it took turns with the official recipe.

    Args:
        limit: share of the memory that was promised.
    """
    pair = next((g for g in groups if name in g and OFFICIAL in g), None)
    if pair is None:
        return
    ours, theirs = pair[name], pair[OFFICIAL]
    promise = "" if limit is None else f", promised at most {limit:.2f} of it"
    share = peak_of(ours) / peak_of(theirs)
    yield f"Peak memory beside the official recipe's{promise}: {share:.3f}."
    yield (
        f"On the same draws, every loss term of the two agrees to "
        f"{largest_difference(ours, theirs):.0e} of its value, over {len(ours)} steps."
    )
