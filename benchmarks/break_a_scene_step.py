"""Time and peak memory of one training step of Break-A-Scene, ours beside others.

    .venv/bin/python benchmarks/break_a_scene_step.py
    .venv/bin/python benchmarks/break_a_scene_step.py --preset sd15 --device cuda --dtype bf16

See step_cost.py for how it measures.
"""

from __future__ import annotations

from collections.abc import Iterator

from step_cost import Comparison, main
from step_rows import Group, beside_official, promised
from variants import VARIANTS

OURS = "full"
PROMISES = (
    ("official at least 3 times as long as ours, full scope", "official", "full"),
    ("full scope at most 1.05 of plain fine-tuning", "full", "plain"),
    ("K/V at most 0.80 of plain fine-tuning", "kv", "plain"),
    ("low-rank at most 0.80 of plain fine-tuning", "low-rank", "plain"),
    ("maps at most 1.03 of a plain forward pass", "maps", "forward"),
)
NOTES = """\
*plain* is fine-tuning of the same weights without attention loss; *official* is a plain
transcription of the official recipe.

On a CPU and preset 35m, attention and its backward pass are about four fifths of a step of ours,
whatever is trained, which leaves the smaller scopes little to save. K/V need no gradient below the
first cross-attention; low-rank goes back through the self-attention before it too, one of the five
dearest.
"""


def findings(groups: list[Group]) -> Iterator[str]:
    """What we promise, and what was found."""
    yield from promised(groups, PROMISES, OURS)
    yield ""
    yield from beside_official(groups, OURS, limit=0.25)


COMPARISON = Comparison(
    script=__file__,
    told=__doc__.splitlines()[0],
    heading="A training step of Break-A-Scene",
    step="one picture and one class picture a step, two concepts",
    variants=VARIANTS,
    # The official recipe takes turns with ours alone: not every machine holds it and all others.
    groups=(
        ("official", OURS),
        ("plain", OURS, "kv", "low-rank", "handles", "checkpointed"),
        ("forward", "maps"),
    ),
    bridge=OURS,
    notes=NOTES,
    findings=findings,
)

if __name__ == "__main__":
    main(COMPARISON)
