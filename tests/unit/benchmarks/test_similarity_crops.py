"""What is compared of a picture: the square around a mask, and what lies outside of it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from similarity.encoders import Lpips, outside, square_around
from torch import Tensor

from conceptloom.errors import ModelError


def pictures(n: int = 1, seed: int = 0, side: int = 64) -> Tensor:
    return torch.rand(n, side, side, 3, generator=torch.Generator().manual_seed(seed))


def box(top: int, left: int, height: int, width: int) -> Tensor:
    mask = torch.zeros(64, 64)
    mask[top : top + height, left : left + width] = 1
    return mask


def test_a_crop_is_square_and_stays_within_the_picture() -> None:
    images = pictures(2)
    wide, corner = box(30, 10, 4, 20), box(60, 0, 4, 10)
    assert torch.equal(square_around(images, wide), images[:, 22:42, 10:30])
    assert torch.equal(square_around(images[0], corner), images[0, 54:64, 0:10])


def test_a_faint_seam_of_a_mask_does_not_widen_its_crop() -> None:
    mask = box(20, 20, 8, 8)
    mask[19, 20:28] = 0.3
    assert square_around(pictures(), mask).shape == (1, 8, 8, 3)


def test_what_differs_under_the_mask_alone_does_not_differ_outside() -> None:
    mask = box(16, 16, 32, 32)
    mask[15, 16:48] = 0.1  # drawn over in part: not outside any more
    one, other = pictures(seed=0), pictures(seed=1)
    changed = torch.where(mask[..., None] > 0, other, one)
    assert torch.equal(outside(one, mask), outside(changed, mask))
    changed[0, 0, 0] = 1 - changed[0, 0, 0]
    assert not torch.equal(outside(one, mask), outside(changed, mask))


def test_without_its_package_lpips_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ModelError, match="pip install lpips"):
        Lpips("alexnet.pth", "cpu")


@pytest.fixture
def alexnet(tmp_path: Path) -> Path:
    """AlexNet with random weights, as torchvision saves it."""
    pytest.importorskip("lpips", reason="pip install lpips, where torchvision goes with torch")
    import torchvision

    torch.manual_seed(0)
    path = tmp_path / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def test_lpips_is_nothing_where_only_what_is_masked_differs(alexnet: Path) -> None:
    distance, mask = Lpips(str(alexnet), "cpu"), box(16, 16, 32, 32)
    one = pictures()
    changed = torch.where(mask[..., None] > 0, pictures(2, seed=1), one)
    found = distance.between(outside(changed, mask), outside(one, mask))
    assert found.tolist() == [0, 0]
    assert (distance.between(changed, one) > 1e-4).all()
    changed[:, 0, 0] = 1 - changed[:, 0, 0]
    assert (distance.between(outside(changed, mask), outside(one, mask)) > 0).all()


def test_lpips_is_that_of_its_package_on_the_weights_of_the_file(alexnet: Path) -> None:
    import lpips
    import torchvision

    one, other = pictures(), pictures(seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    whole = torchvision.models.alexnet(weights=None)
    whole.load_state_dict(torch.load(alexnet, weights_only=True))
    trunk = network.net
    for part in (trunk.slice1, trunk.slice2, trunk.slice3, trunk.slice4, trunk.slice5):
        for name, layer in part.named_children():
            layer.load_state_dict(whole.features[int(name)].state_dict())
    expected = network(one.movedim(-1, 1) * 2 - 1, other.movedim(-1, 1) * 2 - 1)
    found = Lpips(str(alexnet), "cpu").between(one, other)
    assert torch.allclose(found, expected.flatten(), atol=1e-6)


def test_a_file_that_is_no_alexnet_is_refused(alexnet: Path, tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("AlexNet")
    for name in ("other.pth", "text.pth", "mistyped.pth", "mistyped.safetensors"):
        with pytest.raises(ModelError, match=name):
            Lpips(str(tmp_path / name), "cpu")
