"""What the pages say about the code holds: links, names of files, imports, and examples."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .source import PACKAGES, ROOT

CODE_FILE = re.compile(rf"`((?:{'|'.join(PACKAGES)}|benchmarks|scripts|tests|docs)/[\w./-]+\.\w+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def pages() -> list[Path]:
    """The Markdown files that git tracks; the changelog speaks of files that are gone."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split() if name != "CHANGELOG.md"]


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: git does not say what it tracks")
    return {page: page.read_text(encoding="utf-8") for page in pages()}


def test_links_lead_somewhere(texts: dict[Path, str]):
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page, text in texts.items()
        for target in LINK.findall(text)
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)


def test_named_files_exist(texts: dict[Path, str]):
    ours = {page: text for page, text in texts.items() if page.parent.name != "parity"}
    missing = [  # parity's page names files of the authors' programs
        f"{page.relative_to(ROOT)}: {name}"
        for page, text in ours.items()
        for name in CODE_FILE.findall(text)
        if not (ROOT / name).exists()
    ]
    assert not missing, "\n".join(missing)


def test_imports_of_examples_work(texts: dict[Path, str]):
    pytest.importorskip("diffusers")
    for text in texts.values():
        for example in PYTHON.findall(text):
            for node in ast.parse(example).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    exec(ast.unparse(node), {})


def test_the_example_of_the_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: dict[Path, str]
):
    """As it stands, but for the number of steps."""
    pytest.importorskip("diffusers")
    from conceptloom.concepts.concept_file import load_concept
    from conceptloom.methods.break_a_scene import spec

    long = spec.ON_TINYWORLD
    short = dataclasses.replace(
        long,
        token_phase=dataclasses.replace(long.token_phase, steps=1),
        weight_phase=dataclasses.replace(long.weight_phase, steps=1),
        class_images=dataclasses.replace(long.class_images, draw=1, steps=1),
    )
    monkeypatch.setattr(spec, "ON_TINYWORLD", short)
    monkeypatch.chdir(tmp_path)
    picture = np.full((64, 64, 3), 200, np.uint8)
    for name, left in (("mug", 4), ("fish", 36)):
        mask = np.zeros((64, 64), np.uint8)
        mask[20:44, left : left + 24] = 255
        picture[mask > 0] = (left * 5, 80, 40)
        Image.fromarray(mask).save(f"{name}.png")
    Image.fromarray(picture).save("table.png")
    (example,) = PYTHON.findall(texts[ROOT / "docs" / "python.md"])
    exec(example, {})
    assert set(load_concept(tmp_path / "my-scene.safetensors").names) == {"my-mug", "my-fish"}
