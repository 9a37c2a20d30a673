"""Pushing to the hub and loading from it, with the hub's own client but no network."""

import shutil
from pathlib import Path

import huggingface_hub.hub_mixin
import pytest
import torch

from contract.conftest import plan
from limner import UserError, hub


class FakeHub:
    """Keeps what would be uploaded."""

    place: Path

    def __init__(self, token=None, **_):
        pass

    def create_repo(self, repo_id, **_):
        return type("Url", (), {"repo_id": repo_id})()

    def upload_folder(self, *, folder_path, repo_id, **_):
        shutil.copytree(folder_path, self.place / repo_id)
        return repo_id


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    FakeHub.place = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", FakeHub)
    monkeypatch.setattr(hub, "hf_hub_download", lambda repository, file, **_: str(FakeHub.place / repository / file))
    return FakeHub.place


def test_pushed_model_loads_by_its_hub_id(fake_hub):
    model = plan("vae").build().eval()
    model.push_to_hub("somebody/digits-vae")
    pushed = sorted(p.name for p in (fake_hub / "somebody" / "digits-vae").iterdir())
    assert pushed == ["README.md", "config.json", "model.safetensors", "samples.png"]
    loaded = hub.load("somebody/digits-vae")
    assert torch.equal(loaded.sample(2, generator=1), model.sample(2, generator=1))
    assert "library_name: limner" in (fake_hub / "somebody" / "digits-vae" / "README.md").read_text()


def test_what_the_hub_does_not_have_is_said_in_one_line(monkeypatch):
    def absent(*_, **__):
        raise OSError("404: no such repository\nlong explanation")

    monkeypatch.setattr(hub, "hf_hub_download", absent)
    with pytest.raises(UserError, match=r"the hub did not give it: 404: no such repository$"):
        hub.load("somebody/nothing")
