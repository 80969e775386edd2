"""Benchmarks import each other from their own folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
for library in ("diffusers", "pandas", "scipy"):
    pytest.importorskip(library, reason="benchmarks compute with it")

from ..saved_tinyworld import save_tinyworld  # noqa: E402
from .tiny_encoders import save_encoders, save_maskformer  # noqa: E402

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models lose more by handing work between threads than they win."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TinyWorld as diffusers saves a model."""
    return save_tinyworld(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip and dino, as transformers saves them."""
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def maskformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MaskFormer with three classes."""
    pytest.importorskip("scipy", reason="transformers' MaskFormer asks for it")
    return save_maskformer(tmp_path_factory.mktemp("maskformer"))
