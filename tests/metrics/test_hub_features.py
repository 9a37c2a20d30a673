"""DINO and CLIP towers through transformers, on tiny models with random weights in a local folder."""

import importlib
import json

import numpy as np
import pytest
import torch

from limner.errors import UserError
from limner.metrics import hub_features as module
from limner.metrics.features import describe
from limner.metrics.hub_features import hub_features, preparation_of
from metrics.peers import torchvision

CONFIG = {
    "do_resize": True,
    "size": {"shortest_edge": 32},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 28, "width": 28},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("transformers")
    torchvision()  # some of it imports torchvision if that is installed
    return importlib.import_module("transformers")


@pytest.fixture(scope="module")
def dino(transformers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "tiny-dino"
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, initializer_range=0.3
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def clip(transformers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "tiny-clip"
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(**tower, image_size=28, patch_size=7, projection_dim=24)
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**CONFIG, "size": 28, "crop_size": 28}))
    return folder


def processed(transformers, config: dict) -> torch.Tensor:
    """What transformers' own processor on Pillow makes of the images."""
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    made = kind(**config)(list(IMAGES), return_tensors="np")["pixel_values"]
    return torch.from_numpy(np.asarray(made)).float()


def test_dino_is_the_class_token_of_the_processors_input(dino, transformers):
    extractor = hub_features("dino", dino)
    x = processed(transformers, CONFIG)
    assert (extractor.preparation.normalised(extractor.prepare(torch.from_numpy(IMAGES))) - x).abs().max() < 1e-5
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(dino)(x).last_hidden_state[:, 0]
    found = extractor(torch.from_numpy(IMAGES))
    assert found.shape == (3, 32)
    assert found.dtype == torch.float64
    assert expected.std(0).min() > 1e-3
    assert (found - expected).abs().max() < 1e-4
    text = describe(extractor)
    assert text.startswith(f"dino tiny-dino:{extractor.hash} (shorter edge to 32, middle 28 px, antialiased bicubic")
    assert str(dino) not in text
    assert hub_features("dino", dino).hash == extractor.hash


def test_clip_is_the_projected_embedding(clip, transformers):
    extractor = hub_features("clip", clip)
    x = processed(transformers, {**CONFIG, "size": {"shortest_edge": 28}})
    with torch.no_grad():
        expected = transformers.CLIPVisionModelWithProjection.from_pretrained(clip)(x).image_embeds
    found = extractor(torch.from_numpy(IMAGES))
    assert found.shape == (3, 24)
    assert expected.std(0).min() > 1e-3
    assert (found - expected).abs().max() < 1e-5


def test_models_of_another_kind_and_absent_ones_are_said(dino, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"tiny-dino' (is no clip model|cannot)"):
        hub_features("clip", dino)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"'.*empty' cannot be had.*local folder"):
        hub_features("dino", tmp_path / "empty")
    with pytest.raises(UserError, match="no extractor 'sam'"):
        hub_features("sam")
    config = {**CONFIG, "size": 56, "crop_size": 56}
    for file in clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"cannot serve as clip: .*56"):
        hub_features("clip", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be had"):
        hub_features("clip", tmp_path)


def test_without_transformers_the_extra_is_named(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(module.importlib, "import_module", absent)
    for kind in ("dino", "clip"):
        with pytest.raises(UserError, match=rf"{kind} features need .*pip install 'limner\[hub\]'"):
            hub_features(kind)


def test_transformers_that_does_not_import_is_told_apart(monkeypatch):
    class Broken:
        def __getattr__(self, name):
            raise ModuleNotFoundError("Could not import module") from RuntimeError(
                "operator torchvision::nms is absent"
            )

    monkeypatch.setattr(module.importlib, "import_module", lambda name: Broken())
    with pytest.raises(UserError, match=r"does not import here: operator torchvision::nms is absent; if torchvision"):
        hub_features("dino")


@pytest.mark.parametrize(
    ("change", "size", "edge"),
    [
        ({}, 28, 32),
        ({"size": 28, "crop_size": 28}, 28, 28),
        ({"size": {"height": 30, "width": 30}, "do_center_crop": False}, 30, 0),
        ({"size": 224, "do_center_crop": False}, 224, 0),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False}, 32, 32),
    ],
)
def test_every_form_of_the_configuration(change, size, edge):
    preparation = preparation_of({**CONFIG, **change}, "x")
    assert (preparation.size, preparation.edge, preparation.filter) == (size, edge, "bicubic")
    assert preparation.mean == (0.485, 0.456, 0.406)


def test_other_scales_of_values():
    x = torch.tensor([[[[0, 100, 255]]]], dtype=torch.uint8).expand(1, 3, 1, 3)
    found = preparation_of({**CONFIG, "rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3}, "x")
    assert torch.allclose(found.normalised(x)[0, 0, 0], torch.tensor([-1, 100 / 127.5 - 1, 1.0]), atol=1e-6)
    raw = preparation_of({**CONFIG, "do_rescale": False, "do_normalize": False}, "x")
    assert torch.allclose(raw.normalised(x)[0, 0, 0], torch.tensor([0, 100.0, 255.0]))


@pytest.mark.parametrize(
    "change",
    [
        {"do_resize": False},
        {"resample": None},
        {"size": {"height": 32, "width": 40}},
        {"size": {"height": 64, "width": 64}},
        {"crop_size": {"height": 28, "width": 20}},
        {"image_mean": [0.5]},
    ],
)
def test_what_is_not_done_is_refused(change):
    with pytest.raises(UserError, match=r"preprocessor_config.json of 'x' says .*limner does not do"):
        preparation_of({**CONFIG, **change}, "x")
