"""The Inception network against pytorch-fid, torch-fidelity and clean-fid, on weights made on the spot and shared by all.

Default tests run the networks on few or on small images; with `-m slow`, the peers' own commands from folder to figure.
"""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from limner.errors import UserError
from limner.metrics import inception as module
from limner.metrics.frechet import frechet
from limner.metrics.inception import (
    CLASSES,
    FEATURES,
    FILES,
    VARIABLE,
    Inception,
    Network,
    find_weights,
    inception,
    load_network,
)
from limner.metrics.inception_score import inception_score_splits
from limner.metrics.kid import kid, kid_subsets
from limner.metrics.precision_recall import precision_recall
from limner.metrics.resize import RESIZES
from metrics.peers import peer

QUIET = {
    "feature_extractor": "inception-v3-compat",
    "batch_size": 8,
    "cuda": False,
    "cache": False,
    "verbose": False,
    "save_cpu_ram": True,
}
SMALL = 107
"""Pixels: an input eight times cheaper than 299 on which every layer still has more than one position."""


def photographs(count, of, seed=0):
    """uint8 (count, 60, 50, 3): crops of a photograph that comes with scikit-learn."""
    rng = np.random.default_rng(seed)
    photo = load_sample_image(of)
    corners = zip(rng.integers(0, 360, count), rng.integers(0, 580, count), strict=True)
    return torch.from_numpy(np.stack([photo[y : y + 60, x : x + 50] for y, x in corners]))


@pytest.fixture(scope="module")
def network():
    """Random weights under which features differ from image to image: every normalisation is fitted to some images, then shaken."""
    generator = torch.Generator().manual_seed(0)
    network = Network()
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            gain = 3.0 if name.startswith("fc") else 1.4
            parameter.data.normal_(0, gain / parameter[0].numel() ** 0.5, generator=generator)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    images = torch.cat([photographs(2, "china.jpg", seed=9), photographs(2, "flower.jpg", seed=9)])
    with torch.no_grad():
        network.train()(RESIZES["tf"].apply(images, 299))
        for norm in norms:
            norm.weight.uniform_(0.8, 1.2, generator=generator)
            norm.bias.normal_(0, 0.1, generator=generator)
            # A channel that these few images hardly move must not explode on others.
            norm.running_var.clamp_(min=float(norm.running_var.mean()) / 2)
    return network.eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    """Their file, named as pytorch-fid's."""
    path = tmp_path_factory.mktemp("weights") / FILES[0]
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def extractors(weights):
    return {name: inception(weights, resize=name) for name in RESIZES}


@pytest.fixture(scope="module")
def pytorch_fid(network):
    """pytorch-fid's network: (the layers by name, the module that runs them)."""
    source = peer("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "load_state_dict_from_url", lambda *args, **kwargs: network.state_dict())
        layers = source.fid_inception_v3()  # loads strictly: a key or a shape of ours that is not theirs fails here
        patch.setattr(source, "fid_inception_v3", lambda: layers)
        return layers, source.InceptionV3()


@pytest.fixture(scope="module")
def torch_fidelity(weights):
    source = peer("torch_fidelity.feature_extractor_inceptionv3")
    return source.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )


@pytest.fixture(scope="module")
def clean_fid(pytorch_fid):
    """clean-fid's wrapper, which expects NVIDIA's TorchScript program: the same layers in its place."""
    source = peer("cleanfid.inception_torchscript")
    program = torch.nn.Module()
    program.layers = torch.nn.Sequential(*pytorch_fid[1].blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda path: program)
        return source.InceptionV3W("", download=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two small folders of images that overlap in kind, and what is in them in the order of the names."""

    def make(count):
        folder = tmp_path_factory.mktemp("images")
        half = count // 2
        other = torch.cat([photographs(half, "china.jpg", seed=1), photographs(count - half, "flower.jpg")])
        sets = [photographs(count, "china.jpg"), other]
        for name, images in zip("ab", sets, strict=True):
            (folder / name).mkdir()
            for i, image in enumerate(images):
                Image.fromarray(image.numpy()).save(folder / name / f"{i:03}.png")
        return [folder / "a", folder / "b"], sets

    return make


def closeness(ours, theirs):
    """Largest difference, in units of the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def outputs(named, run):
    """What each layer that is a convolution or a block gives while `run` runs."""
    found, handles = {}, []
    for name, layer in named.items():
        handles.append(
            layer.register_forward_hook(lambda layer, x, y, name=name: found.__setitem__(name, y.detach().clone()))
        )
    with torch.no_grad():
        end = run()
    for handle in handles:
        handle.remove()
    return found, end


def layers(root, ours):
    return {name: layer for name, layer in root.named_modules() if name in ours}


@pytest.fixture(scope="module")
def layer_by_layer(network):
    """Input (2, 3, 107, 107) and our output of each of the 94 convolutions and 11 blocks."""
    images = torch.cat([photographs(1, "china.jpg"), photographs(1, "flower.jpg")])
    ours = {n: m for n, m in network.named_modules() if isinstance(m, module.Convolution | module.Block)}
    assert len(ours) == 94 + 11
    x = RESIZES["tf"].apply(images, SMALL)
    return images, x, *outputs(ours, lambda: network(x))


def test_every_layer_equals_pytorch_fids(pytorch_fid, layer_by_layer):
    _, x, ours, end = layer_by_layer
    names, blocks = pytorch_fid[0], pytorch_fid[1].blocks.eval()
    theirs, features = outputs(layers(names, ours), lambda: torch.nn.Sequential(*blocks)(x))
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        assert closeness(ours[name], value) < 1e-5, name
    assert closeness(end, features.flatten(1)) < 1e-5


def test_every_layer_equals_torch_fidelitys(torch_fidelity, layer_by_layer, monkeypatch):
    images, _, ours, end = layer_by_layer
    monkeypatch.setattr(torch_fidelity, "INPUT_IMAGE_SIZE", SMALL)
    theirs, (features, _) = outputs(
        layers(torch_fidelity, ours), lambda: torch_fidelity(images.permute(0, 3, 1, 2).contiguous())
    )
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        assert closeness(ours[name], value) < 1e-5, name
    assert closeness(end, features) < 1e-5


def test_the_weights_made_here_tell_images_apart(layer_by_layer):
    # Without this the comparisons above could pass on features that are all alike.
    *_, ours, end = layer_by_layer
    for name, value in {**ours, "end": end}.items():
        assert float((value[0] - value[1]).std() / value.std()) > 0.3, name
        assert float((value > 0).float().mean()) > 0.1, name


@pytest.mark.parametrize("resize", RESIZES)
def test_features_and_distances_from_files_equal_the_peers(
    resize, extractors, folders, pytorch_fid, torch_fidelity, clean_fid
):
    paths, sets = folders(2)
    ours = [extractors[resize](images) for images in sets]
    for path, x in zip(paths, ours, strict=True):
        files = sorted(path.iterdir())
        if resize == "torch":
            score = peer("pytorch_fid.fid_score")
            theirs = torch.from_numpy(score.get_activations(files, pytorch_fid[1], 2, num_workers=0))
        elif resize == "tf":
            pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])
            theirs, logits = torch_fidelity(pixels)
            assert closeness(extractors[resize].logits(x), logits) < 1e-4
        else:
            fid = peer("cleanfid.fid")
            theirs = torch.from_numpy(
                fid.get_folder_features(
                    str(path), clean_fid.eval(), num_workers=0, batch_size=2, device=torch.device("cpu"), verbose=False
                )
            )
        assert x.shape == (2, FEATURES)
        assert x.dtype == torch.float64
        assert closeness(x, theirs) < 1e-4


def test_features_differ_by_protocol(extractors, monkeypatch):
    monkeypatch.setattr(module, "SIZE", SMALL)
    images = photographs(1, "flower.jpg")
    features = {name: extractor(images) for name, extractor in extractors.items()}
    for one, other in (("tf", "torch"), ("torch", "clean"), ("tf", "clean")):
        assert closeness(features[one], features[other]) > 1e-3
        assert extractors[one].resize != extractors[other].resize
        assert extractors[one].hash == extractors[other].hash


# ---- the arithmetic, on the same features


@pytest.fixture(scope="module")
def features():
    """Float64 features of two sets in 48 dimensions: more rows than columns, non-negative as those of the network."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(48, 48, generator=generator, dtype=torch.float64) / 7
    return [
        (torch.randn(n, 48, generator=generator, dtype=torch.float64) @ mix + shift).relu()
        for n, shift in ((150, 0.5), (200, 0.7))
    ]


@pytest.mark.parametrize("rows", [None, 20], ids=["more images than features", "fewer images than features"])
def test_frechet_equals_pytorch_fid_torch_fidelity_and_clean_fid(features, rows):
    x, y = (f[:rows] for f in features)
    stats = [(f.numpy().mean(0), np.cov(f.numpy(), rowvar=False)) for f in (x, y)]
    ours = frechet(x, y)
    assert ours == pytest.approx(
        peer("pytorch_fid.fid_score").calculate_frechet_distance(*stats[0], *stats[1]), rel=1e-5
    )
    assert ours == pytest.approx(peer("cleanfid.fid").frechet_distance(*stats[0], *stats[1]), rel=1e-5)
    theirs = peer("torch_fidelity.metric_fid").fid_statistics_to_metric(
        *({"mu": mean, "sigma": covariance} for mean, covariance in stats), verbose=False
    )
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)


def test_kid_equals_torch_fidelity_and_clean_fid(features):
    x, y = (f[:150] for f in features)
    # A subset of all images is all images, in another order.
    settings = {"kid_subsets": 2, "kid_subset_size": 150, "verbose": False}
    theirs = peer("torch_fidelity.metric_kid").kid_features_to_metric(x, y, **settings)
    ours = kid(x, y).value
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert ours == pytest.approx(peer("cleanfid.fid").kernel_distance(x.numpy(), y.numpy(), num_subsets=1), rel=1e-5)


def test_kid_of_subsets_is_torch_fidelitys_up_to_the_draw(features):
    x, y = features
    theirs = peer("torch_fidelity.metric_kid").kid_features_to_metric(
        x, y, kid_subsets=400, kid_subset_size=50, verbose=False
    )
    ours = kid_subsets(x, y, subsets=400, size=50)
    error = ours.error / 400**0.5
    assert abs(ours.value - theirs["kernel_inception_distance_mean"]) < 5 * error
    assert ours.error == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.2)


# ---- from folder to figure


def test_figures_from_folders_equal_torch_fidelitys_command(weights, folders, monkeypatch):
    """On inputs of 107 pixels, for time; the FID, on 299, is the slow test below."""
    paths, sets = folders(8)
    source = peer("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(source.FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", SMALL)
    monkeypatch.setattr(module, "SIZE", SMALL)
    theirs = peer("torch_fidelity").calculate_metrics(
        input1=str(paths[0]),
        input2=str(paths[1]),
        feature_extractor_weights_path=str(weights),
        **QUIET,
        kid=True,
        kid_subset_size=8,
        kid_subsets=1,
        prc=True,
        isc=True,
        isc_splits=2,
    )
    extract = inception(weights)
    x, y = (extract(images) for images in sets)
    assert kid(x, y).value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    score = inception_score_splits(extract.logits(x), splits=2)
    assert score == pytest.approx((theirs["inception_score_mean"], theirs["inception_score_std"]), rel=1e-4)
    found = precision_recall(x, y)
    assert found.precision.value == pytest.approx(theirs["precision"])
    assert found.recall.value == pytest.approx(theirs["recall"])


@pytest.mark.slow
@pytest.mark.parametrize("resize", RESIZES)
def test_fid_from_folders_equals_the_peers_command(
    resize, weights, extractors, folders, pytorch_fid, clean_fid, monkeypatch
):
    paths, sets = folders(24)
    one, other = map(str, paths)
    x, y = (extractors[resize](images) for images in sets)
    if resize == "torch":
        score = peer("pytorch_fid.fid_score")
        monkeypatch.setattr(score, "InceptionV3", lambda blocks: pytorch_fid[1])
        score.InceptionV3.BLOCK_INDEX_BY_DIM = {2048: 3}
        theirs = score.calculate_fid_given_paths([one, other], 8, "cpu", 2048, num_workers=0)
    elif resize == "clean":
        fid = peer("cleanfid.fid")
        theirs = fid.compare_folders(one, other, clean_fid.eval(), "clean", device=torch.device("cpu"), verbose=False)
    else:
        found = peer("torch_fidelity").calculate_metrics(
            input1=one,
            input2=other,
            fid=True,
            kid=True,
            kid_subset_size=24,
            kid_subsets=1,
            **QUIET,
            feature_extractor_weights_path=str(weights),
        )
        theirs = found["frechet_inception_distance"]
        assert kid(x, y).value == pytest.approx(found["kernel_inception_distance_mean"], rel=1e-4)
    assert frechet(x, y) == pytest.approx(theirs, rel=1e-4)


# ---- the extractor


def test_features_do_not_depend_on_batch_or_autocast_and_grey_is_rgb(extractors, monkeypatch):
    monkeypatch.setattr(module, "SIZE", SMALL)
    extract = extractors["tf"]
    images = photographs(5, "china.jpg")
    features = extract(images)
    monkeypatch.setattr(extract, "batch", 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert closeness(extract(images), features) < 1e-5
    grey = images[:, :, :, :1]
    assert torch.equal(extract(grey), extract(grey.expand(-1, -1, -1, 3).contiguous()))


def test_logits_are_the_last_layer_without_its_bias(network, extractors):
    features = torch.rand(3, FEATURES, dtype=torch.float64)
    logits = extractors["tf"].logits(features)
    assert logits.shape == (3, CLASSES)
    with torch.no_grad():
        biased = network.fc(features.float())
        assert closeness(logits, (biased - network.fc.bias).double()) < 1e-5
        assert closeness(logits, biased.double()) > 1e-3


def test_hash_and_name_are_those_of_the_weights(extractors, network, tmp_path, monkeypatch):
    first = extractors["tf"]
    assert (first.name, first.standard) == ("inception with other weights", False)
    # Older files lack the counters, which nothing here uses: the same weights.
    older = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    path = tmp_path / "older.pth"
    torch.save(older, path, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(module, "STANDARD", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    standard = inception(path)
    assert (standard.name, standard.standard, standard.hash) == ("inception", True, first.hash)
    changed = load_network(path)
    changed.fc.weight.data[0, 0] += 1e-3
    assert Inception(changed).hash != first.hash


def test_an_unknown_resize_is_refused_before_weights_are_looked_for(network):
    for make in (lambda: inception("nowhere", resize="lanczos"), lambda: Inception(network, resize="lanczos")):
        with pytest.raises(ValueError, match="no resize 'lanczos': tf, torch, clean"):
            make()


# ---- the file


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without weights."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_weights_are_found_in_the_stated_order(nowhere, monkeypatch):
    hub = put(nowhere / "torch" / "hub" / "checkpoints" / FILES[1])
    assert find_weights() == hub
    ours = put(nowhere / "cache" / "weights" / FILES[0])
    assert find_weights() == ours
    folder = put(nowhere / "mine" / FILES[1]).parent
    monkeypatch.setenv(VARIABLE, str(folder))
    assert find_weights() == folder / FILES[1]
    given = put(nowhere / "given.pth")
    assert find_weights(given) == given


def test_missing_weights_say_where_they_were_looked_for_and_what_to_do(nowhere, monkeypatch):
    with pytest.raises(UserError) as error:
        inception()
    for part in (*FILES, str(nowhere / "cache" / "weights"), str(nowhere / "torch"), VARIABLE, "mseitzer/pytorch-fid"):
        assert part in str(error.value)
    with pytest.raises(UserError, match=r"no file '.*gone\.pth'"):
        inception(nowhere / "gone.pth")
    with pytest.raises(UserError, match="has neither"):
        inception(nowhere)
    monkeypatch.setenv(VARIABLE, str(nowhere / "gone.pth"))
    with pytest.raises(UserError, match=f"gone.pth' that {VARIABLE} names"):
        inception()


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: without(s, "fc.bias"), "1 tensors missing, such as 'fc.bias'"),
        (lambda s: {**s, "AuxLogits.fc.weight": torch.zeros(1)}, "1 tensors unknown.*torchvision"),
        (lambda s: {**s, "fc.bias": torch.zeros(1000)}, "1 tensors of another shape, such as 'fc.bias'"),
        (lambda s: {**s, "fc.bias": torch.full((CLASSES,), torch.nan)}, "damaged: not all of its numbers are finite"),
        (lambda s: [s["fc.bias"]], "not a state dict"),
        (lambda s: {"state_dict": s}, "not a state dict"),
    ],
    ids=["missing", "unknown", "shape", "nan", "list", "nested"],
)
def test_another_file_is_refused_with_the_reason(change, words, network, tmp_path):
    # The numbers do not matter, and one stored number serves for all of a tensor's.
    state = {key: torch.zeros(()).expand(value.shape) for key, value in network.state_dict().items()}
    torch.save(change(state), tmp_path / "w.pth")
    with pytest.raises(UserError, match=words) as error:
        inception(tmp_path / "w.pth")
    assert FILES[0] in str(error.value)


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("kind", ["pickle", "text", "empty", "cut"])
def test_a_file_that_is_no_weights_is_refused_and_runs_nothing(kind, tmp_path, capsys):
    path = tmp_path / "w.pth"
    torch.save({"fc.weight": Hostile() if kind == "pickle" else torch.zeros(1000)}, path)
    if kind in ("text", "empty"):
        path.write_bytes(b"not weights" if kind == "text" else b"")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot be read as weights.*the file"):
        inception(path)
    assert "run" not in capsys.readouterr().out
