"""What a run says before it starts: memory and time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.families.anima import ANIMA
from conceptloom.host.families.family import Family
from conceptloom.host.families.single_stream import KREA_2, Z_IMAGE
from conceptloom.host.ports import LayerSite, Place, Role, Rows, TransformerSite, UNetSites
from conceptloom.training import estimate as estimate_module
from conceptloom.training.estimate import MIB, Estimate, estimate_of

from ..tiny_models import assert_unchanged, snapshot, tiny_host

NUMBERS = [nn.Parameter(torch.zeros(10, 10))]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> DiffusersHost:
    """A model whose forward pass takes two seconds."""
    made, predict, clock = tiny_host(), DiffusersHost.predict, [0.0]

    def slow(*args: object, **more: object) -> torch.Tensor:
        clock[0] += 2.0
        return predict(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(DiffusersHost, "predict", slow)
    monkeypatch.setattr(estimate_module.time, "monotonic", lambda: clock[0])
    return made


def test_one_line_tells_memory_and_time() -> None:
    found = Estimate(1_500_000, 24 * MIB, 8 * MIB, batch_seconds=0.5)
    assert found.summary(400) == (
        "400 steps, 1,500,000 trained parameters, about 32 MiB besides the model (8 MiB of them "
        "activations), about 3 min 20 s"
    )
    assert found.summary(400, accumulation=3).endswith("about 10 min 0 s")


def test_the_size_of_saved_states_is_reported() -> None:
    """Twelve bytes a number: for SD 1.5 learned whole two states of 11 GiB."""
    found = Estimate(983_000_000, 0, 0, batch_seconds=0.5)
    assert found.describe_states == (
        "a saved state takes 11,249.5 MiB on disk; the run keeps the last 2"
    )


def test_pictures_take_their_time() -> None:
    found = Estimate(1_500_000, 24 * MIB, 8 * MIB, batch_seconds=0.5, picture_seconds=100.0)
    assert found.summary(400).endswith("about 5 min 0 s, including 1 min 40 s for pictures")


def test_time_is_that_of_one_row_and_memory_that_of_all(host: DiffusersHost) -> None:
    before = snapshot(host)
    one = estimate_of(host, NUMBERS, (8, 8), 1)
    assert one.parameters == 100
    assert one.learning_bytes == 1600  # weight, gradient and two moments, four bytes each
    assert one.batch_seconds == 8  # four passes
    two = estimate_of(host, NUMBERS, (8, 8), 2)
    assert two.activation_bytes == 2 * one.activation_bytes
    assert two.batch_seconds == 16
    assert_unchanged(before, host)


class OfSize:
    """A transformer of a real size, without weights."""

    dtype, device, latent_channels = torch.bfloat16, torch.device("cpu"), 16

    def __init__(self, width: int, blocks: int, refiners: int, kept: int) -> None:
        linear = frozenset({Role.LINEAR})
        empty = nn.Identity()
        self.sites = UNetSites(
            tuple(
                TransformerSite(f"layers.{n}", Place.FLAT, n, 2, width, 1, 1, empty)
                for n in range(blocks)
            ),
            (),
            layers=tuple(
                LayerSite(f"noise_refiner.{n}.attention.to_q", Rows.JOINT, 2, empty, linear)
                for n in range(refiners)
            ),
            kept_by_block=kept,
        )

    def encode_prompt(self, text: str) -> str:
        return text

    def predict(self, latent: torch.Tensor, *args: object) -> torch.Tensor:
        return latent


@pytest.mark.parametrize(
    ("family", "size", "weights", "learned", "measured", "total"),
    [
        (ANIMA, (2048, 28, 0), 2.09e9, 22_900_000, 17.4, 5.5),
        (Z_IMAGE, (3840, 30, 2), 6.16e9, 31_300_000, 33.8, 14.0),
        (KREA_2, (6144, 28, 0), 12.8e9, 53_700_000, 38.4, 27.0),
    ],
)
def test_transformers_at_1024_px(
    family: Family, size: tuple[int, int, int], weights: float, learned: int, measured: float,
    total: float,
) -> None:  # fmt: skip
    """Frozen bfloat16 weights, low-rank masters and recomputed blocks, in GiB."""
    learning = [nn.Parameter(torch.empty(learned))]
    host = OfSize(*size, family.kept_by_block)
    again = estimate_of(host, learning, (128, 128), 1, checkpointing=True)  # type: ignore[arg-type]
    besides = again.learning_bytes + again.activation_bytes
    assert (2 * weights + besides) / 2**30 == pytest.approx(total, rel=0.05)
    kept = estimate_of(host, learning, (128, 128), 1)  # type: ignore[arg-type]
    assert kept.activation_bytes / 2**30 == pytest.approx(measured, rel=0.1)


def test_recomputing_takes_less_memory_and_one_pass_more(host: DiffusersHost) -> None:
    kept = estimate_of(host, NUMBERS, (8, 8), 1)
    again = estimate_of(host, NUMBERS, (8, 8), 1, checkpointing=True)
    assert again.activation_bytes < kept.activation_bytes / 4
    assert (kept.batch_seconds, again.batch_seconds) == (8, 10)
