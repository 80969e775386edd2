"""Every benchmark of the pack, from one command.

    python benchmarks/run.py                                    the list of subjects
    python benchmarks/run.py speed lag --device cuda --checkpoint sd15.safetensors --label h200
    python benchmarks/run.py quality break_a_scene --budget short
    python benchmarks/run.py quality                            all subjects of a kind
    python benchmarks/run.py claims                             all claims beside their figures
    python benchmarks/run.py pages                              pages from the results, nothing run

A result is JSON in `benchmarks/results`: command, machine, date, versions, figures, claims. The
pages in `docs/results` and README's table are rendered from the results. Quick runs, and those of
another model without a --label, write below `runs/` instead.
"""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from harness.subject import SUBJECTS, Subject, command_line, subject_of

# Pages that no subject writes.
BY_HAND = (
    "| [comfy-test's levels on the packed archive](comfy_test.md) | `scripts/test-packed` |",
)


KINDS = tuple(dict.fromkeys(subject.kind for subject in SUBJECTS))
PATHS = ("checkpoint", "layout")  # options of a worker


def listed() -> str:
    """The subjects, a line each."""
    lines = [(__doc__ or "").rstrip(), ""]
    for kind in KINDS:
        chosen = (subject for subject in SUBJECTS if subject.kind == kind)
        lines += [f"{kind}:", *(f"    {one.name:15} {one.title}{one.needs}" for one in chosen)]
    return "\n".join([*lines, "", "run.py KIND NAME --help shows a subject's options.", ""])


def run_one(subject: Subject, arguments: list[str]) -> None:
    """Measure, and write the result with its page."""
    from harness import report, results
    from harness.experiment import sheet_path

    options = subject.parse(arguments)
    found = subject.run(options)
    found = replace(found, command=command_line(subject, arguments))
    if options.label:
        found = replace(found, page=f"{found.page}@{options.label}")
    is_own = not options.quick and (bool(options.label) or subject.is_usual(options))
    pages = results.PAGES if is_own else results.RUNS / "pages"
    if found.picture:
        sheet, name = sheet_path(subject.page), f"{found.page}.jpg"
        pages.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sheet, pages / name)
        found = replace(found, picture=(name, found.picture[1]))
    path = results.save(found, results.RESULTS if is_own else results.RUNS / "results")
    pages.mkdir(parents=True, exist_ok=True)
    text = report.page(found)
    (pages / f"{found.page}.md").write_text(text, encoding="utf-8")
    sys.stdout.write(f"{text}\nwrote {path}\n")
    if is_own:
        render()


def render() -> None:
    """The list of claims, all pages, their index and README's table, from the results."""
    from claims.all import refresh, topics
    from harness import report

    refresh()
    report.write_pages(SUBJECTS, BY_HAND)
    report.write_summary(report.summary(topics()))


def main(arguments: list[str]) -> None:
    kind, *rest = arguments or [""]
    if kind == "worker":
        module, given = rest
        options = json.loads(given)
        for name in PATHS:
            options[name] = Path(options[name]) if options.get(name) else None
        import_module(module).work(Namespace(**options))
    elif kind == "pages":
        render()
    elif kind not in KINDS:
        sys.stdout.write(listed())
        sys.exit(2 if kind and kind not in ("-h", "--help") else 0)
    elif rest and not rest[0].startswith("-"):
        run_one(subject_of(kind, rest[0]), rest[1:])
    elif kind == "claims":
        run_one(subject_of(kind, "all"), rest)
    else:
        for subject in (one for one in SUBJECTS if one.kind == kind):
            run_one(subject, rest)


if __name__ == "__main__":
    main(sys.argv[1:])
