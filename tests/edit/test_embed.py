"""Tables of codes: read back and compared with the model; and good for something."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import limner as library
import toy_runs
from limner.edit.embed import embed
from limner.edit.examples import examples
from limner.errors import UserError
from limner.files import sha256


class Tokens(toy_runs.Toy):
    """Two maps of discrete codes: the brightness of quarters, and of pixels."""

    codebooks = (4, 17)
    code_shapes = ((2, 2), (8, 8))

    def tokenize(self, image):
        quarters = torch.nn.functional.avg_pool2d(image[:, 0], 4)
        return (quarters + 1).mul(2).long().clamp(0, 3), ((image[:, 0] + 1) * 8).round().long()

    def detokenize(self, codes):
        return codes[1][:, None] / 8 - 1


class Map(toy_runs.Projector):
    """Codes that are maps, from batches that are counted."""

    seen: list[int] = []  # noqa: RUF012

    def encode(self, image):
        self.seen.append(len(image))
        return super().encode(image).view(-1, 4, 2, 2)


def fitted(cls):
    train, _ = toy_runs.digits()
    return cls(toy_runs.Config(size=8, rank=16)).fit(train.batch(range(len(train)))["image"]).eval()


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    monkeypatch.setattr("limner.hub.describe", lambda model: {"model": type(model).__name__, "config": {}})


def test_an_npz_table_holds_every_code_in_order_and_is_written_in_batches(tmp_path):
    model, (train, test) = fitted(Map), toy_runs.digits()
    Map.seen.clear()
    done = embed(model, [train, test], tmp_path / "t.npz", batch=100)
    assert (done.images, done.shapes, done.kind) == (1797, ((4, 2, 2),), "codes")
    assert max(Map.seen) == 100
    table = np.load(tmp_path / "t.npz")  # without pickles
    both = torch.cat([d.batch(range(len(d)))["image"] for d in (train, test)])
    np.testing.assert_allclose(table["codes"], model.encode(both).flatten(1), atol=1e-5)
    assert table["codes"].dtype == np.float32
    assert np.array_equal(table["labels"], np.concatenate([train.labels, test.labels]))
    assert table["class_names"].tolist() == [str(k) for k in range(10)]
    assert table["split"].tolist() == ["train"] * 1437 + ["test"] * 360
    assert table["names"][1437] == "digits test 0"
    facts = json.loads(str(table["metadata"]))
    assert facts["code_shapes"] == [[4, 2, 2]]
    assert [d["fingerprint"] for d in facts["data"]] == [train.fingerprint, test.fingerprint]
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def test_a_parquet_table_holds_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    model, (_, test) = fitted(Map), toy_runs.digits()
    embed(model, test, tmp_path / "t.parquet", batch=100)
    embed(model, test, tmp_path / "t.npz", batch=100)
    table, other = parquet.read_table(tmp_path / "t.parquet"), np.load(tmp_path / "t.npz")
    assert table.column_names == ["name", "split", "label", "class", "codes"]
    assert np.array_equal(np.array(table["codes"].to_pylist(), np.float32), other["codes"])
    assert table["label"].to_pylist() == other["labels"].tolist()
    assert table["class"].to_pylist() == [str(k) for k in test.labels]
    assert table["name"].to_pylist() == other["names"].tolist()
    assert json.loads(table.schema.metadata[b"limner"]) == json.loads(str(other["metadata"]))


def test_maps_of_discrete_codes_are_whole_numbers(tmp_path):
    model, (_, test) = Tokens(toy_runs.Config(size=8)).eval(), toy_runs.digits()
    done = embed(model, test, tmp_path / "t.npz", batch=64)
    assert (done.shapes, done.kind) == (((2, 2), (8, 8)), "tokens")
    table = np.load(tmp_path / "t.npz")
    coarse, fine = model.tokenize(test.batch(range(len(test)))["image"])
    assert table["tokens_0"].dtype == np.int32
    assert np.array_equal(table["tokens_0"], coarse.flatten(1))
    assert np.array_equal(table["tokens_1"], fine.flatten(1))
    assert json.loads(str(table["metadata"]))["codebooks"] == [4, 17]
    with pytest.raises(UserError, match="no codes to write: this model can tokenize"):
        embed(model, test, tmp_path / "t.npz", kind="codes")


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
    test = toy_runs.digits()[1]
    with pytest.raises(UserError, match=r"must end in .npz or .parquet"):
        embed(fitted(Map), test, tmp_path / "t.csv")
    with pytest.raises(UserError, match="this model can sample, decode"):
        embed(toy_runs.fitted("gaussian"), test, tmp_path / "t.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'limner\[parquet\]'"):
        embed(fitted(Map), test, tmp_path / "t.parquet")


def test_every_image_of_a_folder_is_taken_in_the_order_of_its_name(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {f"{name}.png": rng.integers(0, 256, (11, 13), dtype=np.uint8) for name in "cabd"}
    pictures["e.png"] = pictures["a.png"]  # twice the same
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / name)
    sets = examples(tmp_path, fitted(Map), str(tmp_path))
    embed(fitted(Map), sets, tmp_path / "t.npz")
    table = np.load(tmp_path / "t.npz")
    assert table["names"].tolist() == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert np.array_equal(table["codes"][0], table["codes"][4])
    assert "labels" not in table


def test_embed_verb_and_a_linear_probe_on_what_it_writes(limner, vae_run, tmp_path):
    done = limner("embed", vae_run, "--split", "all", "--out", "table.npz")
    assert done.returncode == 0, done.stderr
    assert "1,797 images, codes of 5 each" in done.stdout
    table = np.load(tmp_path / "table.npz")
    train, test = library.open_data("digits", split="train"), library.open_data("digits", split="test")
    with torch.no_grad():
        code = library.load(vae_run).encode(train.batch(range(1))["image"])
    np.testing.assert_allclose(table["codes"][:1], code, atol=1e-4)
    facts = json.loads(str(table["metadata"]))
    assert facts["model"]["model"] == "vae"
    assert facts["model"]["weights_sha256"] == sha256(vae_run / "model.safetensors")
    # Least squares on the codes of the training images tells the classes of the others apart.
    x = np.column_stack([table["codes"], np.ones(len(table["codes"]))])
    known = table["split"] == "train"
    weights = np.linalg.lstsq(x[known], np.eye(10)[table["labels"][known]], rcond=None)[0]
    accuracy = ((x[~known] @ weights).argmax(1) == test.labels).mean()
    assert accuracy > 0.5, accuracy  # chance is 0.1
