"""Run folders that are damaged, or made to do harm, and a disk that is full: one line, status 2, nothing run, nothing lost."""

import os
import pickle
import shutil
import struct
import subprocess
import zipfile

import pytest
import torch

from cli.conftest import refused
from limner import hub
from limner.training import checkpoint


class Payload:
    """Unpickling this runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained / "ae", tmp_path / "run")
    return tmp_path / "run"


def pickles(path, mark):
    """The same payload in the ways a .pt file may carry one."""
    with open(path, "wb") as file:
        pickle.dump({"format": 1, "model": Payload(mark)}, file)
    yield "a bare pickle"
    torch.save({"format": 1, "model": Payload(mark)}, path)
    yield "torch's zip"
    torch.save({"format": 1, "model": Payload(mark)}, path, _use_new_zipfile_serialization=False)
    yield "torch's old format"


def test_a_pickle_in_a_checkpoint_is_never_run(limner, run, tmp_path):
    mark = tmp_path / "owned"
    for path in checkpoint.files(run / "state")[1:]:
        path.unlink()
    (path,) = checkpoint.files(run / "state")
    for _kind in pickles(path, mark):
        refused(limner("resume", run, "--images", 9600), "can be read")
        assert not mark.exists()


def test_a_pickle_in_place_of_the_weights_is_never_run(limner, run, tmp_path):
    mark = tmp_path / "owned"
    for _kind in pickles(run / "model.safetensors", mark):
        refused(limner("sample", run), "model.safetensors", "safetensors")
        assert not mark.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\x00" * 7),
        ("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),  # a header longer than the file
        ("model.safetensors", struct.pack("<Q", 2) + b"{}" + b"\x00" * 64),  # no tensors, trailing bytes
        ("model.safetensors", struct.pack("<Q", 12) + b'{"a": nope!}'),
        (
            "model.safetensors",
            struct.pack("<Q", 66) + b'{"w":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}',
        ),
        ("config.json", b""),
        ("config.json", b"[1, 2]"),
        ("config.json", b'{"model": "vea", "config": {}}'),
        ("config.json", b'{"model": "ae", "config": {"latent": -1}}'),
        (
            "config.json",
            b'{"model": "ae", "config": {"network": "mlp", "size": 8, "latent": 3}}',
        ),  # not what the weights are
        ("config.json", b'{"model": "os:system", "config": {}}'),
        ("config.json", b"\xff\xfe\x00"),
    ],
)
def test_damaged_weights_and_configurations(limner, run, file, content):
    (run / file).write_bytes(content)
    refused(limner("sample", run), "run")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"model_name = ",
        b'model_name = "ae"\n',
        b'model_name = "ae"\n[data]\n[train]\n[model]\n',
        b"\xff\xfe",
        b'model_name = "ae"\n[data]\ndata="digits"\n[train]\nimages = "many"\n[model]\n',
    ],
)
def test_damaged_settings(limner, run, content):
    (run / "run.toml").write_bytes(content)
    refused(limner("resume", run), "run.toml")


def test_truncated_checkpoints_at_random_offsets(run):
    import random

    random.seed(0)
    newest = checkpoint.files(run / "state")[0]
    whole = newest.read_bytes()
    for _ in range(40):
        cut = random.randrange(len(whole))
        newest.write_bytes(whole[:cut])
        told = []
        state = checkpoint.latest(run / "state", told.append)
        assert state is not None
        assert state["clock"]["images"] < int(newest.stem)
        assert len(told) == 1
        assert newest.name in told[0]


def test_a_checkpoint_that_is_a_zip_bomb_of_other_things_is_refused(limner, run):
    for path in checkpoint.files(run / "state"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../evil", b"\x00" * 10_000_000)
    refused(limner("resume", run, "--images", 9600), "can be read")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of twelve megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_during_a_save_keeps_the_checkpoint_before(limner, run, small_disk):
    for path in checkpoint.files(run / "state")[1:]:
        path.unlink()
    shutil.move(run, small_disk / "run")
    run = small_disk / "run"
    before = (run / "model.safetensors").read_bytes()
    saved = checkpoint.files(run / "state")
    left = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"\x00" * (left - 100_000))
    refused(limner("resume", run, "--images", 12800), "disk is full")
    assert checkpoint.files(run / "state") == saved
    assert checkpoint.latest(run / "state", pytest.fail) is not None
    assert (run / "model.safetensors").read_bytes() == before
    assert hub.load(run).sample(1, generator=0).isfinite().all()
    assert list(run.rglob("*.tmp")) == [], "a temporary file was left behind"
    (small_disk / "filler").unlink()
    done = limner("resume", run)
    assert done.returncode == 0, done.stderr


def test_nothing_is_begun_where_nothing_can_be_written(limner, tmp_path):
    (tmp_path / "file").write_text("here")
    refused(limner("train", "ae", "--data", "digits", "--out", tmp_path / "file" / "run"), "file/run", "--out")
