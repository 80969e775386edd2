"""The shipped code is closed: nothing run from a string, no network, no pickle, no printing.

ComfyUI's registry scans for part of this, comfy-test for another part; the rest is our promise.
TinyWorld's own training (see .comfyignore) is not shipped to ComfyUI and may do more.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from .source import ROOT, Source, on_every, shipped

FORBIDDEN_MODULES = {
    **dict.fromkeys(("pickle", "cPickle", "dill", "marshal", "shelve"), "pickles run code"),
    **dict.fromkeys(("subprocess", "pty", "multiprocessing"), "no other process is started"),
    **dict.fromkeys(
        ("aiohttp", "ftplib", "http", "httpx", "requests", "socket", "ssl", "urllib", "urllib3"),
        "no network",
    ),
    "huggingface_hub": "nothing is downloaded behind the user's back",
    "pip": "nothing is installed while running",
    "ctypes": "no foreign code",
}
# Where a user asks for a download by name, and who may offer that.
DOWNLOADS, OFFERS_DOWNLOADS = "vision.downloads", {"nodes.download", "cli.download_command"}
# Who may use the network all the same: the download, and a batch's way to the servers it is given.
ON_REQUEST = {DOWNLOADS: "huggingface_hub", "batch.comfyui_worker": "requests"}
FORBIDDEN_CALLS = {
    "eval": "no code from strings",
    "exec": "no code from strings",
    "compile": "no code from strings",
    "__import__": "imports are statements",
    "print": "use logging.getLogger('conceptloom')",
    "os.system": "no other process is started",
    "os.popen": "no other process is started",
    "os.getenv": "settings come through sockets and arguments",
    "torch.manual_seed": "randomness comes in as a Generator",
    "torch.cuda.manual_seed": "randomness comes in as a Generator",
    "torch.cuda.manual_seed_all": "randomness comes in as a Generator",
    "np.random.seed": "randomness comes in as a Generator",
    "random.seed": "randomness comes in as a Generator",
}
# What comfy-test's SYNTAX level and the registry's scanner refuse, wherever it stands. Write
# `Linear(...)` after `from torch.nn import Linear`; follow the input tensor's device.
SCANNED = re.compile(
    r"\.cuda\(|\.to\(\s*[\"']cuda|torch\.autocast\(|\bnn\.(Linear|Conv[123]d|LayerNorm|GroupNorm|Embedding)\("
    r"|\.connect\(|\.bind\("
)

on_every_file = on_every([source for source in shipped() if not source.is_workshop])


@cache
def calls(source: Source) -> list[tuple[str, ast.Call]]:
    return [
        (ast.unparse(node.func), node)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    ]


def keyword(call: ast.Call, name: str) -> object:
    for given in call.keywords:
        if given.arg == name and isinstance(given.value, ast.Constant):
            return given.value.value
    return None


@on_every_file
def test_no_forbidden_module_is_imported(source: Source) -> Iterator[str]:
    for found in source.imports():
        top = found.target.split(".")[0]
        if not found.is_own:
            reason = FORBIDDEN_MODULES.get(top)
            asked_for = top == ON_REQUEST.get(source.module)
            if reason and not asked_for:
                yield f"{source.name}:{found.line} imports {top}: {reason}"


@on_every_file
def test_nothing_downloads_but_what_a_user_calls_by_name(source: Source) -> Iterator[str]:
    for found in source.imports():
        is_download = found.is_own and found.target.startswith(DOWNLOADS)
        if is_download and source.module not in OFFERS_DOWNLOADS:
            yield f"{source.name}:{found.line} downloads"


@on_every_file
def test_no_forbidden_call(source: Source) -> Iterator[str]:
    for name, call in calls(source):
        if reason := FORBIDDEN_CALLS.get(name):
            yield f"{source.name}:{call.lineno} calls {name}: {reason}"


@on_every_file
def test_weights_are_never_unpickled(source: Source) -> Iterator[str]:
    for name, call in calls(source):
        if name == "torch.load" and keyword(call, "weights_only") is not True:
            yield f"{source.name}:{call.lineno}: torch.load needs weights_only=True"
        if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is True:
            yield f"{source.name}:{call.lineno}: {name} unpickles"


@on_every_file
def test_models_are_read_from_disk_only(source: Source) -> Iterator[str]:
    for name, call in calls(source):
        if name.endswith(".from_pretrained") and keyword(call, "local_files_only") is not True:
            yield f"{source.name}:{call.lineno}: {name} needs local_files_only=True"


@on_every_file
def test_the_environment_is_not_read(source: Source) -> Iterator[str]:
    nodes = list(ast.walk(source.tree))
    written = [
        n.value for n in nodes if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store)
    ]
    for node in nodes:
        is_environment = isinstance(node, ast.Attribute) and ast.unparse(node) == "os.environ"
        if is_environment and node not in written:
            yield f"{source.name}:{node.lineno} reads os.environ"


@on_every_file
def test_scanners_find_nothing(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := SCANNED.search(line):
            yield f"{source.name}:{number}: scanners refuse {found[0]!r}"


@on_every_file
def test_source_is_plain_text(source: Source) -> Iterator[str]:
    """comfy-test reads sources in Windows' code page, so no Greek letters and no box drawing."""
    try:
        source.text.encode("cp1252")
    except UnicodeEncodeError as error:
        line = source.text.count("\n", 0, error.start) + 1
        character = source.text[error.start]
        yield f"{source.name}:{line}: {character!r} is not in Windows-1252"
    if "\t" in source.text or "\r" in source.text:
        yield f"{source.name} holds a tab or a carriage return"


def test_sources_that_are_not_shipped_are_in_windows_code_page() -> None:
    """comfy-test reads the whole checkout, except scripts/."""
    for path in (
        path for package in ("tests", "benchmarks") for path in (ROOT / package).rglob("*.py")
    ):
        path.read_text(encoding="utf-8").encode("cp1252")


def test_no_bytecode_or_foreign_weights_are_tracked() -> None:
    """The host's policy refuses packs with bytecode; pickled weights are never shipped."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    assert "*.py[cod]" in ignored
    for suffix in ("*.ckpt", "*.pt", "*.pth", "*.bin", "*.pkl"):
        for package in ("tinyworld", "workflows", "web"):
            assert not list((ROOT / package).rglob(suffix))
