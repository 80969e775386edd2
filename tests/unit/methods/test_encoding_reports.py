"""Pictures that are encoded before the first step are reported one by one, and can be cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import learn_scene
from conceptloom.methods.clic import Form, learn_detail
from conceptloom.methods.concept_weaver import BankConfig, learn_for_bank
from conceptloom.methods.personalized_residuals import PersonalizedResidualsConfig, learn_residuals

from ..tiny_models import assert_unchanged, snapshot, tiny_host
from . import break_a_scene_cases, clic_cases

PICTURES = [torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
Learn = Callable[..., Any]

LEARN: dict[str, tuple[int, Learn]] = {
    "break a scene": (
        4,
        lambda host, **more: learn_scene(
            host, break_a_scene_cases.scene(2), break_a_scene_cases.config(), **more
        ),
    ),
    "clic": (
        8,
        lambda host, **more: learn_detail(host, clic_cases.scene(2), clic_cases.config(), **more),
    ),
    "clic, regions apart": (
        16,
        lambda host, **more: learn_detail(
            host, clic_cases.scene(2), clic_cases.config(roi_form=Form.OFFICIAL), **more
        ),
    ),
    "clic, unaltered": (
        2,
        lambda host, **more: learn_detail(
            host, clic_cases.scene(2), clic_cases.config(random_scale=False, **clic_cases.STILL),
            **more,
        ),
    ),
    "bank": (
        6,
        lambda host, **more: learn_for_bank(
            host, clic_cases.scene(2), BankConfig(views=3), **more
        ),
    ),
    "residuals": (
        4,
        lambda host, **more: learn_residuals(
            host, PICTURES, "my-cat", "cat", PersonalizedResidualsConfig(flip=0.5), **more
        ),
    ),
}  # fmt: skip


class Cancelled(Exception):
    pass


@pytest.mark.parametrize(("total", "learn"), LEARN.values(), ids=list(LEARN))
def test_a_run_stops_within_one_picture(
    total: int, learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, encoded, told = tiny_host(), list[int](), list[tuple[int, int, str]]()
    before, encode = snapshot(host), DiffusersHost.encode_image

    def counted(self: DiffusersHost, image: torch.Tensor) -> torch.Tensor:
        encoded.append(1)
        return encode(self, image)

    def progress(step: int, of: int, message: str = "", preview: object = None) -> None:
        told.append((step, of, message))
        if step == total - 1:
            raise Cancelled

    monkeypatch.setattr(DiffusersHost, "encode_image", counted)
    with pytest.raises(Cancelled):
        learn(host, progress=progress)
    assert told == [(n, total, "encoding the pictures") for n in range(1, total)]
    assert len(encoded) == total - 1
    assert_unchanged(before, host)
