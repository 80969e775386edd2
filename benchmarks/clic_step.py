"""Time and peak memory of one training step of CLiC, ours beside others.

    .venv/bin/python benchmarks/clic_step.py
    .venv/bin/python benchmarks/clic_step.py --preset sd15 --device cuda --dtype bf16

See step_cost.py for how it measures.
"""

from __future__ import annotations

from functools import partial

from clic_variants import VARIANTS
from step_cost import Comparison, main
from step_rows import beside_official

NOTES = """\
*plain* is fine-tuning of the same weights, cross-attention's and the handle, on the whole picture
alone: half the rows of CLiC, no maps. *official* is a plain transcription of the official recipe,
without what its program computes in vain. Both forms of ours pass picture and region through the
UNet side by side; altered copies of the picture are encoded before the first step, which is not in
these figures, where the official recipe encodes picture and region anew at every step.
"""


OURS = "official-form"
COMPARISON = Comparison(
    script=__file__,
    told=__doc__.splitlines()[0],
    heading="A training step of CLiC",
    step="one picture and its region alone a step, one concept",
    variants=VARIANTS,
    # The official recipe takes turns with ours alone: not every machine holds it and all others.
    groups=(("official", OURS), ("plain", "content", OURS, "paper-form")),
    bridge=OURS,
    notes=NOTES,
    findings=partial(beside_official, name=OURS),
)

if __name__ == "__main__":
    main(COMPARISON)
