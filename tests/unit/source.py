"""The shipped Python files, parsed once, for the tests that read code instead of running it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "attention",
    "batch",
    "cli",
    "concepts",
    "host",
    "methods",
    "nodes",
    "samplers",
    "scenes",
    "tinyworld",
    "training",
    "vision",
    "viz",
)


@dataclass(frozen=True)
class Import:
    """One imported thing, with relative dots resolved."""

    target: str  # `attention.maps` inside the pack, `torch.nn` outside
    is_own: bool
    line: int
    is_late: bool  # inside a function: runs only when that is called
    is_typing: bool  # under `if TYPE_CHECKING`: never runs


class Source:
    """One file: its text, its syntax tree, and what it imports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.relative_to(ROOT).as_posix()
        self.text = path.read_bytes().decode("utf-8")
        self.tree = ast.parse(self.text, filename=self.name)

    @property
    def top_package(self) -> str:
        return self.name.split("/")[0] if "/" in self.name else ""

    @property
    def module(self) -> str:
        """Dotted name below `conceptloom`; empty for the root."""
        parts = self.name.removesuffix(".py").split("/")
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_workshop(self) -> bool:
        """TinyWorld's own training: kept out of ComfyUI's archive, so other rules hold there."""
        return self.top_package == "tinyworld" and any(
            fnmatch(self.name, line) for line in left_out()
        )

    @property
    def package(self) -> list[str]:
        parts = self.name.split("/")
        return parts[:-1]

    def literals(self) -> Iterator[ast.Constant]:
        """Strings and numbers of the code; no docstrings."""
        bare = {id(n.value) for n in ast.walk(self.tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and id(node) not in bare:
                yield node

    def imports(self) -> Iterator[Import]:
        yield from self._walk(self.tree, is_late=False, is_typing=False)

    def _walk(self, node: ast.AST, *, is_late: bool, is_typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, False, child.lineno, is_late, is_typing)
            elif isinstance(child, ast.ImportFrom):
                for target, is_own in self._targets(child):
                    yield Import(target, is_own, child.lineno, is_late, is_typing)
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                is_guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from self._walk(
                    child, is_late=is_late or is_function, is_typing=is_typing or is_guard
                )

    def _targets(self, node: ast.ImportFrom) -> Iterator[tuple[str, bool]]:
        if node.level == 0:
            yield node.module or "", False
            return
        base = self.package[: len(self.package) - node.level + 1]
        prefix = ".".join([*base, node.module] if node.module else base)
        for alias in node.names:
            # `from .x import y`: y may be a module of its own or a name in x
            inner = f"{prefix}.{alias.name}" if prefix else alias.name
            yield (inner if module_path(inner) else prefix), True


def module_path(module: str) -> Path | None:
    """The file of a dotted name below `conceptloom`, if there is one."""
    base = ROOT.joinpath(*module.split(".")) if module else ROOT
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def left_out() -> tuple[str, ...]:
    """Patterns of .comfyignore: what does not reach the archive that ComfyUI's users get."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    wanted = (line.removeprefix("/") for line in lines if line and not line.startswith("#"))
    return tuple(f"{line}*" if line.endswith("/") else line for line in wanted)


@cache
def shipped() -> tuple[Source, ...]:
    """Every Python file of the package."""
    paths = sorted(ROOT.glob("*.py"))
    for package in PACKAGES:
        paths += sorted((ROOT / package).rglob("*.py"))
    return tuple(Source(path) for path in paths if path.name != "setup.py")


Rule = Callable[[Source], Iterator[str]]  # yields a sentence for each breach in a file


def on_every(sources: Iterable[Source]) -> Callable[[Rule], Callable[[], None]]:
    """Turn a rule about one file into one test that lists its breaches in all of `sources`."""

    def as_test(rule: Rule) -> Callable[[], None]:
        def test() -> None:
            breaches = [breach for source in sources for breach in rule(source)]
            assert not breaches, "\n".join(breaches)

        test.__doc__ = rule.__doc__
        return test

    return as_test
