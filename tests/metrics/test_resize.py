"""The resize protocols against the packages they are named after, and against closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from limner.metrics.resize import RESIZES, SIZE, clean_bicubic, tf_bilinear, torch_bilinear
from metrics.peers import peer

SIDES = [(1, 5), (8, 8), (28, 28), (33, 64), (299, 299), (300, 200), (512, 700)]


def noise(height, width, channels=3):
    """The hardest image for a resize: every pixel differs from the next."""
    return np.random.default_rng(height).integers(0, 256, (2, height, width, channels), dtype=np.uint8)


def of_torch_fidelity(image):
    resize = peer("torch_fidelity.interpolate_compat_tensorflow").interpolate_bilinear_2d_like_tensorflow1x
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    return resize(x, size=(SIZE, SIZE), align_corners=False)[0]


def of_clean_fid(image):
    return torch.from_numpy(peer("cleanfid.resize").build_resizer("clean")(image)).permute(2, 0, 1)


@pytest.fixture
def of_pytorch_fid(monkeypatch):
    inception, transforms = peer("pytorch_fid.inception"), peer("torchvision.transforms")
    layers = SimpleNamespace(**dict.fromkeys(("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"), torch.nn.Identity()))
    monkeypatch.setattr(inception, "fid_inception_v3", lambda: layers)
    network = inception.InceptionV3([0])
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def resized(image):
        network(transforms.ToTensor()(Image.fromarray(image))[None])
        return seen.pop()[0]

    return resized


@pytest.mark.parametrize("side", SIDES)
def test_torch_equals_pytorch_fid(side, of_pytorch_fid):
    for image in noise(*side):
        ours = torch_bilinear(torch.from_numpy(image)[None])[0]
        assert (ours - of_pytorch_fid(image)).abs().max() * 127.5 < 1e-3


@pytest.mark.parametrize("side", SIDES)
def test_tf_equals_torch_fidelity(side):
    for image in noise(*side):
        ours = tf_bilinear(torch.from_numpy(image)[None])[0]
        assert (ours * 128 + 128 - of_torch_fidelity(image)).abs().max() < 1e-3


@pytest.mark.parametrize("side", SIDES)
def test_clean_equals_clean_fid(side):
    for image in noise(*side):
        ours = clean_bicubic(torch.from_numpy(image)[None])[0]
        assert (ours * 128 + 128 - of_clean_fid(image)).abs().max() < 1e-3


def test_pixels_are_read_where_each_protocol_says():
    ramp = torch.arange(0, 250, 10, dtype=torch.uint8)  # (25,): grey level 10 x at pixel x
    images = ramp.view(1, 1, 25, 1).expand(1, 25, 25, 3)
    j = torch.arange(SIZE, dtype=torch.float64)
    inside = slice(20, -20)  # where no filter meets the border
    at_corner, at_centre = 10 * j * 25 / SIZE, 10 * ((j + 0.5) * 25 / SIZE - 0.5)
    for function, truth, levels in (
        (tf_bilinear, at_corner, lambda x: 128 * x + 128),
        (torch_bilinear, at_centre, lambda x: 127.5 * (x + 1)),
    ):
        x = levels(function(images)).double()
        assert torch.allclose(x[0, 0, 100, inside], truth[inside], atol=1e-3)
        assert torch.allclose(x, x[:, :, :1])  # a ramp to the right alone
    # A cubic of this kind gives a ramp back only at its knots and half way: within a tenth of a step of it everywhere.
    x = 128 * clean_bicubic(images).double() + 128
    assert (x[0, 0, 100, inside] - at_centre[inside]).abs().max() < 1


def test_black_and_white_become_what_each_network_was_given():
    black, white = (torch.full((1, 40, 40, 3), value, dtype=torch.uint8) for value in (0, 255))
    for function, low, high in ((tf_bilinear, -1, 127 / 128), (torch_bilinear, -1, 1), (clean_bicubic, -1, 127 / 128)):
        assert torch.allclose(function(black), torch.full((1, 3, SIZE, SIZE), float(low)), atol=1e-6)
        assert torch.allclose(function(white), torch.full((1, 3, SIZE, SIZE), float(high)), atol=1e-6)


def test_only_the_clean_one_averages_what_it_shrinks():
    """A fine chequerboard seen from afar is grey; read at single pixels it stays black and white."""
    board = (torch.arange(1200)[:, None] + torch.arange(1200)) % 2 * 255
    images = board.to(torch.uint8).view(1, 1200, 1200, 1)
    spread = {name: float(resize.apply(images, SIZE).std()) for name, resize in RESIZES.items()}
    assert spread["clean"] < 0.02
    assert spread["tf"] > 0.3
    assert spread["torch"] > 0.3


@pytest.mark.parametrize("name", RESIZES)
def test_grey_is_three_equal_channels_and_images_do_not_depend_on_their_neighbours(name):
    images = torch.from_numpy(noise(31, 47, 1))
    both = RESIZES[name].apply(images, SIZE)
    assert both.shape == (2, 3, SIZE, SIZE)
    assert both.dtype == torch.float32
    assert torch.equal(both, RESIZES[name].apply(images.expand(-1, -1, -1, 3), SIZE))
    assert torch.equal(both[1:], RESIZES[name].apply(images[1:], SIZE))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 8, 8, 3), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, 3, dtype=torch.uint8)],
    ids=["floats", "channels first", "one image"],
)
def test_other_tensors_are_refused(wrong):
    with pytest.raises(ValueError, match=r"uint8 \(N, H, W, C\)"):
        tf_bilinear(wrong)
