"""The walls of docs/architecture.md. Imports are read from the syntax tree; nothing is imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from .source import PACKAGES, ROOT, Import, Source, module_path, on_every, shipped

BASICS = ("errors", "checks", "rng")
PORT = ("host.ports", "host.prompt_text", "host.inference", "host.roles", *BASICS)
MIDDLE = ("training", "samplers", "attention", "vision", "viz", "scenes", "concepts")
BELOW_METHODS = (*MIDDLE, *PORT)

# package (longest match wins) -> what it may import of our own; itself is always allowed
ALLOWED = {
    "": ("nodes",),
    "errors": (),
    "checks": ("errors",),
    "rng": ("host.ports",),
    "nodes": ("methods", "tinyworld", "host.comfyui", *BELOW_METHODS),
    "cli": ("batch", "methods", "tinyworld", "host.diffusers", *BELOW_METHODS),
    "batch": ("cli", "methods", "tinyworld", "host.diffusers", *BELOW_METHODS),
    "methods": (*BELOW_METHODS, "tinyworld.presets"),
    "training": BELOW_METHODS,
    "concepts": (*PORT, "host.families"),
    "samplers": BELOW_METHODS,
    "attention": BELOW_METHODS,
    "vision": (*BELOW_METHODS, "host.families"),
    "viz": ("scenes", "host.prompt_text", "errors"),
    "scenes": ("concepts", *BASICS),
    "tinyworld": ("host.ports", "host.families", "attention", "errors"),
    "tinyworld.presets": ("tinyworld", "training.adapters"),
    "host": ("errors",),
    "host.comfyui": ("host", "tinyworld", "errors"),
    "host.diffusers": ("host", "tinyworld", "errors"),
}
# Only a host, and the table of a family in it, knows how models call their parts and lay out text.
MODEL_NAMES = re.compile(
    r"attn[12]\b|\bto_(?:[qkv]|out)\b|transformer_blocks|(?:in|out|emb)_layers|proj_in\b|ff\.net"
    r"|(?:input|output|middle|down|up|mid)_block|(?:text_model|self_attn|token_embedding)\b"
    r"|clip_[lgh]\b"
)
CLIP_ROWS = 77
NEW_TENSORS = ("zeros", "ones", "empty", "rand", "randn")
PICTURE_CHANNELS = (1, 3)  # masks and pictures
KEY_TABLES = ("concepts.lora_keys",)  # its subject is what other programs write into files
# TinyWorld is itself a model in the original checkpoints' form: these files make and train it.
MODEL_MAKERS = ("keys", "model", "sampling", "checkpoint", "dit.*", "recipe.*")
HOST_MODULES = (
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
    "utils",
)
# ComfyUI brings these, so they may be imported anywhere, at once.
ALWAYS_THERE = {"PIL", "einops", "numpy", "safetensors", "torch", "transformers"}
# Optional ones may be imported at once only where the package is itself optional.
OPTIONAL = {
    "cli": {"jinja2", "markupsafe", "rich", "tensorboard", "typer"},
    "batch": {"pydantic", "ray", "requests", "rich", "yaml"},
    "host.diffusers": {"accelerate", "diffusers"},
}

on_every_file = on_every(shipped())


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def package_of(module: str, packages: tuple[str, ...]) -> str:
    return max(
        (package for package in packages if package and is_inside(module, package)),
        key=len,
        default="",
    )


def where(source: Source, found: Import) -> str:
    return f"{source.name}:{found.line} imports {found.target}"


@on_every_file
def test_packages_import_only_what_lies_below_them(source: Source) -> Iterator[str]:
    package = package_of(source.module, tuple(ALLOWED))
    allowed = (*ALLOWED[package], package) if package else ALLOWED[package]
    for found in source.imports():
        if found.is_own and found.target:  # the root offers __version__ and imports nothing
            inside = any(is_inside(found.target, name) for name in allowed)
            foreign_host = package == "host" and package_of(found.target, tuple(ALLOWED)) != "host"
            if (not inside or foreign_host) and found.target != "errors":
                yield where(source, found)


@on_every_file
def test_methods_never_import_each_other(source: Source) -> Iterator[str]:
    if source.top_package != "methods":
        return
    own = source.module.split(".")[1:2]
    for found in source.imports():
        is_method = found.is_own and is_inside(found.target, "methods")
        if is_method and found.target.split(".")[1:2] not in (own, []):
            yield where(source, found)


@on_every_file
def test_only_nodes_and_the_comfyui_host_know_comfyui(source: Source) -> Iterator[str]:
    if source.top_package == "nodes" or is_inside(source.module, "host.comfyui"):
        return
    for found in source.imports():
        if not found.is_own and found.target.split(".")[0] in HOST_MODULES:
            yield where(source, found)


@on_every_file
def test_only_hosts_know_what_models_call_their_parts(source: Source) -> Iterator[str]:
    is_maker = any(fnmatch(source.module, f"tinyworld.{name}") for name in MODEL_MAKERS)
    if source.top_package == "host" or is_maker or source.module in KEY_TABLES:
        return
    for node in source.literals():
        is_name = isinstance(node.value, str) and MODEL_NAMES.search(node.value)
        if is_name or (type(node.value) is int and node.value == CLIP_ROWS):
            told = f"{source.name}:{node.lineno} knows {node.value!r:.60}"
            yield f"{told}: ask a site, a role, a layout or the host"


@on_every_file
def test_only_hosts_know_how_many_channels_latents_have(source: Source) -> Iterator[str]:
    if source.top_package in ("host", "tinyworld"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.keyword) and node.arg == "latent_channels":
            channels = node.value
        elif isinstance(node, ast.Call) and made_by(node) in NEW_TENSORS and len(node.args) == 4:
            channels = node.args[1]  # [B, C, h, w]; pictures are [B, H, W, 3]
            if ast.unparse(node.args[3]) == "3":
                continue
        else:
            continue
        if isinstance(channels, ast.Constant) and channels.value not in PICTURE_CHANNELS:
            yield f"{source.name}:{channels.lineno} knows the channels of latents: ask the host"


def made_by(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


@on_every_file
def test_own_packages_are_imported_relatively(source: Source) -> Iterator[str]:
    for found in source.imports():
        top = found.target.split(".")[0]
        is_hosts_nodes = top == "nodes"  # ComfyUI's module; the test above says who may
        if not found.is_own and not is_hosts_nodes and top in ("conceptloom", "errors", *PACKAGES):
            yield where(source, found)


@on_every_file
def test_optional_libraries_are_imported_late(source: Source) -> Iterator[str]:
    optional = OPTIONAL.get(package_of(source.module, tuple(OPTIONAL)), set())
    known = ALWAYS_THERE | set(sys.stdlib_module_names) | set(HOST_MODULES) | optional
    known |= {"typing_extensions"}  # torch needs it
    if source.is_workshop:
        return
    for found in source.imports():
        is_at_once = not (found.is_own or found.is_late or found.is_typing)
        if is_at_once and found.target.split(".")[0] not in known:
            yield where(source, found)


def test_nothing_imports_what_is_left_out_of_the_archive() -> None:
    workshop = {source.module for source in shipped() if source.is_workshop}
    for source in shipped():
        for found in source.imports():
            if found.is_own and not (source.is_workshop or source.top_package == "cli"):
                assert found.target not in workshop, where(source, found)


@on_every_file
def test_relative_imports_lead_somewhere(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        base = source.package[: len(source.package) - node.level + 1]
        prefix = ".".join([*base, node.module] if node.module else base)
        line = f"{source.name}:{node.lineno}"
        if node.level > len(source.package) + 1:
            yield f"{line} leaves the pack"
        path = module_path(prefix)
        if not path and not (ROOT / Path(*prefix.split("."))).is_dir():
            yield f"{line} imports from {prefix}, which does not exist"
        for alias in node.names:
            inner = f"{prefix}.{alias.name}" if prefix else alias.name
            if not module_path(inner) and not (path and alias.name in names_in(path)):
                yield f"{line}: {prefix} has no {alias.name}"


@cache
def names_in(path: Path) -> set[str]:
    """What a module defines at its top level."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        for node in ast.iter_child_nodes(pending.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            else:
                pending.append(node)
    return names


def test_imports_never_run_in_a_circle() -> None:
    sources = {source.module: source for source in shipped()}
    graph = {
        name: {
            found.target
            for found in source.imports()
            if found.is_own
            and not (found.is_late or found.is_typing)
            # a package's __init__ may be reached from its own modules: Python has begun it already
            and not is_inside(name, found.target)
        }
        for name, source in sources.items()
    }
    done: set[str] = set()

    def follow(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(graph.get(name, ())):
                follow(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        follow(name, ())


@on_every_file
def test_no_file_is_longer_than_400_lines(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > 400:
        yield f"{source.name} has {lines} lines"


def test_one_function_prepares_concepts_for_lag() -> None:
    made_at = {
        source.module
        for source in shipped()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "LagEdit"
    }
    assert made_at == {"methods.personalized_residuals.lag"}


@on_every_file
def test_nodes_stay_thin(source: Source) -> Iterator[str]:
    if source.top_package != "nodes":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "execute":
            first = node.body[1] if ast.get_docstring(node) else node.body[0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            if lines > 15:
                yield f"{source.name}:{node.lineno}: execute has {lines} lines, 15 allowed"


def test_every_folder_of_code_is_a_package() -> None:
    bare = {
        source.path.parent.relative_to(ROOT).as_posix()
        for source in shipped()
        if not (source.path.parent / "__init__.py").is_file()
    }
    assert not bare, f"without __init__.py, so pip would leave them out: {sorted(bare)}"
