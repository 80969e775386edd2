"""What ComfyUI's users get: all that the nodes need, and nothing of how it was made."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from .source import left_out

MIB = 2**20
LARGEST = 21 * MIB  # TinyWorld's checkpoint is 11.7 of it, its judge 1.4
NEEDED = {
    "LICENSE", "README.md", "__init__.py", "pyproject.toml", "requirements.txt",
    "locales/ko/nodeDefs.json", "subgraphs/Weave two concepts.json",
    "tinyworld/judge/judge.safetensors", "tinyworld/tinyworld.safetensors",
    "tinyworld/tokenizer/vocab.json",
    "web/docs/ConceptLoomConceptScene.md", "workflows/1-learn-a-scene.json",
    "workflows/concepts/mug-and-fish-tinyworld.safetensors",
}  # fmt: skip
PACKAGES = {
    "attention", "concepts", "host", "locales", "methods", "nodes", "samplers", "scenes",
    "subgraphs", "tinyworld", "training", "vision", "viz", "web", "workflows",
}  # fmt: skip
PLAIN = {
    "CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "checks.py", "errors.py",
    "pyproject.toml", "requirements.txt", "rng.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def archive(root: Path) -> set[str]:
    """The files that git tracks and .comfyignore lets through, as `comfy node pack` takes them."""
    if not (root / ".git").exists():
        pytest.skip("not a clone: git does not say what it tracks")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return {
        name for name in tracked if name and not any(fnmatch(name, line) for line in left_out())
    }


def test_it_holds_what_is_needed(archive: set[str]):
    assert archive >= NEEDED


def test_it_holds_nothing_else(archive: set[str]):
    """A new package has to be named here or in .comfyignore."""
    assert {name.partition("/")[0] for name in archive if "/" in name} == PACKAGES
    assert {name for name in archive if "/" not in name} == PLAIN


def test_it_has_no_bytecode_and_no_weights_but_those_that_are_meant(archive: set[str]):
    assert not [name for name in archive if name.endswith((".pyc", ".pt", ".pth", ".ckpt", ".bin"))]
    weights = {Path(name).parts[0] for name in archive if name.endswith(".safetensors")}
    assert weights == {"tinyworld", "workflows"}


def test_it_stays_small(archive: set[str], root: Path):
    assert sum((root / name).stat().st_size for name in archive) <= LARGEST


def test_every_pattern_leaves_something_out(root: Path):
    names = [path.relative_to(root).as_posix() for path in root.glob("*")]
    for folder in ("tinyworld", "tinyworld/dit", "tinyworld/judge"):
        names += [path.relative_to(root).as_posix() for path in (root / folder).iterdir()]
    for line in set(left_out()) - {"runs/*"}:  # runs make it; git ignores it
        folder = line.removesuffix("/*")
        assert any(fnmatch(name, line) or name == folder for name in names), line


def test_every_help_page_shows_pictures_that_are_there(archive: set[str], root: Path):
    """scripts/make-node-pictures draws a node; its page names the file."""
    for page in sorted((root / "web" / "docs").glob("*.md")):
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert f"images/nodes/{page.stem}.jpg" in pictures, page.name
        for picture in pictures:
            assert f"web/docs/{picture}" in archive, f"{page.name}: {picture}"


def test_comfy_tests_hook_names_the_nodes_without_a_workflow(root: Path):
    """`scripts/packed_hook.py` runs inside comfy-test only, so a stale list would fail late."""
    tree = ast.parse((root / "scripts" / "packed_hook.py").read_text(encoding="utf-8"))
    (listed,) = [
        ast.literal_eval(line.value)
        for line in tree.body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "IN_NO_WORKFLOW"
    ]
    nodes = {page.stem for page in (root / "web" / "docs").glob("*.md")}
    used = {
        node["class_type"]
        for path in (root / "workflows" / "api").glob("*.json")
        for node in json.loads(path.read_text(encoding="utf-8")).values()
    }
    assert listed == nodes - used
