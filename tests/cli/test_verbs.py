"""Each verb on real files."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import limner as library
from cli.conftest import refused
from limner.data.grid import to_uint8


def test_help_and_import_are_light():
    import subprocess

    code = "import sys, limner; import limner.cli; print([m for m in ('torch', 'numpy', 'PIL', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    code = (
        "import sys\nfrom limner.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'matplotlib', 'huggingface_hub', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout
    for verb in (
        "models",
        "data",
        "train",
        "resume",
        "sample",
        "reconstruct",
        "restore",
        "translate",
        "interpolate",
        "latent-map",
        "arithmetic",
        "vary",
        "embed",
        "anomaly",
        "transfer",
        "compress",
        "decompress",
        "evaluate",
        "compare",
        "demo",
    ):
        assert verb in done.stdout


def test_models_lists_the_catalogue_with_capabilities(limner):
    done = limner("models")
    assert done.returncode == 0, done.stderr
    for word in ("ae", "vae", "gan", "realnvp", "pixelcnn", "ddpm", "van den Oord", "lecture 001", "sample, score"):
        assert word in done.stdout


def test_train_sample_reconstruct_interpolate_resume(limner, tmp_path):
    done = limner(
        "train", "vae", "--data", "digits", "--images", 3200, "--out", "run", "--seed", 7, "--model.latent", 5
    )
    assert done.returncode == 0, done.stderr
    assert "1,437 training images of 8x8" in done.stdout
    run = tmp_path / "run"
    assert {"run.toml", "config.json", "model.safetensors", "stats.jsonl", "README.md", "state", "samples"} <= {
        p.name for p in run.iterdir()
    }
    assert json.loads((run / "config.json").read_text())["config"]["latent"] == 5
    last = json.loads((run / "stats.jsonl").read_text().splitlines()[-1])
    assert last["images"] == 3200
    assert last["images_per_second"] > 0

    done = limner("sample", "run", "-n", 4, "--seeds", "3,5-7", "--out", "drawn")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == [f"seed{i:05d}.png" for i in (3, 5, 6, 7)]
    assert (tmp_path / "drawn.png").is_file()
    model = library.load(run)
    expected = to_uint8(model.sample(1, generator=[6]))[0, ..., 0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn" / "seed00006.png")), expected)

    for verb, picture in (("reconstruct", "reconstructions.png"), ("interpolate", "interpolation.png")):
        done = limner(verb, "run")
        assert done.returncode == 0, done.stderr
        assert Image.open(run / picture).size[0] > 100

    done = limner("resume", "run", "--images", 4800)
    assert done.returncode == 0, done.stderr
    assert "going on after 3,200 images" in done.stdout
    done = limner("resume", "run")
    assert "nothing left to do" in done.stdout


def test_dry_run_prints_the_plan_and_trains_nothing(limner, tmp_path):
    done = limner("train", "gan", "--data", "digits", "--dry-run", "--out", "run", "--batch", 32)
    assert done.returncode == 0, done.stderr
    assert 'model_name = "gan"' in done.stdout
    assert "batch = 32" in done.stdout
    assert "size = 8" in done.stdout
    assert not (tmp_path / "run").exists()


def test_train_help_shows_the_settings_of_the_model(limner):
    done = limner("train", "vae", "--help")
    assert done.returncode == 0, done.stderr
    for flag in ("--data", "--images", "--model.latent", "--model.likelihood", "--size", "--dry-run", "--clip"):
        assert flag in done.stdout


def test_tensorboard_files_are_written_on_request(limner, tmp_path):
    pytest.importorskip("tensorboard")
    done = limner("train", "ae", "--data", "digits", "--images", 640, "--out", "run", "--tensorboard")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_folder_of_ones_own_images(limner, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "mine" / f"{i}.png")
    (tmp_path / "mine" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = limner("data", "check", "mine")
    assert done.returncode == 0, done.stderr
    assert "broken.png" in done.stdout
    assert (tmp_path / "mine-contact-sheet.png").exists()
    done = limner("train", "ae", "--data", "mine", "--size", 16, "--images", 640, "--out", "run", "--model.width", 8)
    assert done.returncode == 0, done.stderr
    assert "broken.png" in done.stdout, "train says what it leaves out"
    assert library.load(tmp_path / "run").image_shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], ["needs the model's name"]),
        (["train", "veal", "--data", "digits"], ["'veal'", "did you mean 'vae'"]),
        (["train", "vae", "--data", "nowhere"], ["nowhere"]),
        (["train", "vae", "--data", "digits", "--preset", "9px"], ["9px", "8px"]),
        (["train", "vae", "--data", "digits", "--device", "cuda:7"], ["cuda:7"]),
        (["train", "ae", "--data", "digits", "--micro-batches", "3"], ["micro-batches"]),
        (["resume", "nowhere"], ["nowhere"]),
        (["sample", "nowhere"], ["nowhere"]),
        (["compare", "nowhere", "nowhere2"], ["nowhere"]),
        (["evaluate", "nowhere"], ["nowhere"]),
        (["data", "check", "nowhere"], ["nowhere"]),
        (["restore", "nowhere", "images", "--out", "there"], ["nowhere"]),
        (["translate", "nowhere"], ["nowhere"]),
        (["latent-map", "nowhere"], ["nowhere"]),
        (["embed", "nowhere", "--out", "codes.npz"], ["nowhere"]),
        (["anomaly", "nowhere"], ["nowhere"]),
        (["transfer", "nowhere"], ["nowhere"]),
        (["compress", "nowhere", "images", "--out", "file"], ["nowhere"]),
        (["train", "ae", "--data", "digits", "--without", "11"], ["--without 11", "0, 1"]),
        (["train", "dae", "--data", "digits", "--degrade", "niose"], ["noise"]),
        (["train", "cvae", "--data", "shapes-ab", "--size", "16", "--count", "64"], ["label"]),
    ],
)
def test_what_cannot_work_is_one_line_and_status_2(here, arguments, words):
    refused(here(*arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "vae", "--data", "digits", "--model.latnt", "3"], "--model.latent"),
        (["train", "vae", "--data", "digits", "--imges", "3"], "--images"),
        (["train", "vae", "--data", "digits", "--images", "-3"], "greater than 0"),
        (["smple", "run"], "sample"),
        (["train", "vae"], "--data"),
    ],
)
def test_a_wrong_flag_names_the_right_one(limner, arguments, hint):
    done = limner(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert hint in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["restore", "ae", ".", "--out", "there"], ["cannot restore"]),
        (["translate", "ae"], ["translate"]),
        (["compress", "ae", ".", "--out", "file"], ["discrete codes"]),
        (["arithmetic", "ae", "--plus", "purple"], ["purple"]),
        (["anomaly", "ae", "--anomalous", "eleven"], ["eleven"]),
        (["train", "pixelcnn", "--first-stage", "ae"], ["discrete codes"]),
    ],
)
def test_what_a_model_cannot_do_is_said(here, trained, arguments, words):
    refused(here(*(str(trained / a) if a == "ae" else a for a in arguments)), *words)


def test_options_of_the_sampler_are_checked(limner, trained):
    refused(limner("sample", trained / "vae", "--set", "stepz=3"), "stepz")
    refused(limner("sample", trained / "vae", "--set", "steps"), "name=value")
    refused(limner("sample", trained / "vae", "--label", "3"), "--label")
    refused(limner("sample", trained / "vae", "--seeds", "9-3"), "--seeds 9-3")


def test_evaluate_prints_a_table_and_json(limner, trained):
    done = limner("evaluate", trained / "vae", "-n", 64, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert figures["bits_per_dim"]["note"].startswith("bound")
    assert 0 < figures["bits_per_dim"]["value"] < 8
    assert "64 held-out images" in figures["bits_per_dim"]["protocol"]
    done = limner("evaluate", trained / "vae", "-n", 64)
    assert done.returncode == 0, done.stderr
    assert "bound" in done.stdout


def test_compare_writes_one_self_contained_page(limner, trained, tmp_path):
    done = limner("compare", trained / "ae", trained / "vae", "-n", 64)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="data:image/png;base64' in page
    assert "vae" in page


def test_python_face(trained):
    run = library.train(
        "ae", data="digits", images=640, out=trained / "again", seed=0, device="cpu", quiet=True, config={"latent": 3}
    )
    model = library.load(run.path)
    assert model.config.latent == 3
    assert model.sample(16, generator=0).shape == (16, 1, 8, 8)
    with pytest.raises(library.UserError, match="did you mean 'batch'"):
        library.train("ae", data="digits", bach=3, out=trained / "no")
    with pytest.raises(library.UserError, match="unknown key 'widht'; did you mean 'width'"):
        library.train("ae", data="digits", config={"widht": 3}, out=trained / "no")
    assert not (trained / "no").exists()
    assert torch.get_num_threads() == 1


def test_evaluate_takes_any_folder_of_images_and_prints_it_three_ways(limner, tmp_path):
    from limner.data import open_data

    digits = open_data("digits", split="train")
    (tmp_path / "drawn").mkdir()
    for i in range(60):
        Image.fromarray(digits.images[i, ..., 0]).save(tmp_path / "drawn" / f"{i}.png")
    (tmp_path / "drawn" / "broken.png").write_bytes(b"x")
    command = ("evaluate", "drawn", "--against", "digits", "--features", "pixels", "--metrics", "kid,recall")
    done = limner(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert "left out broken.png" in done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert set(figures) == {"kid", "recall"}
    assert "60 images against 360 held-out images" in figures["kid"]["protocol"]
    assert figures["recall"]["value"] > 0.3
    for form, mark in (("table", "KID, Recall: 60 images"), ("latex", r"\begin{tabular}")):
        done = limner(*command, "--format", form)
        assert mark in " ".join(done.stdout.split()), done.stdout + done.stderr
    (tmp_path / "drawn" / "broken.png").unlink()
    refused(limner("evaluate", "drawn", "--against", "digits", "--protocol", "clean", "--weights", "x.pth"), "x.pth")


@pytest.mark.slow
def test_demo_trains_each_kind_and_ends_in_the_report(limner, tmp_path):
    done = limner("demo", "--minutes", 0.05, "--no-show")
    assert done.returncode == 0, done.stderr
    runs = sorted(p.name for p in (tmp_path / "runs" / "demo").iterdir() if p.is_dir())
    assert runs == ["ae", "ddpm", "gan", "pixelcnn", "realnvp", "vae"]
    page = (tmp_path / "runs" / "demo" / "report.html").read_text(encoding="utf-8")
    assert all(f">{name}<" in page for name in runs)
    assert not re.search(r'src="http|<link', page), "the report must open offline"
    weights = {run: (tmp_path / "runs" / "demo" / run / "model.safetensors").read_bytes() for run in runs}
    again = limner("demo", "--minutes", 0.05, "--no-show")
    assert again.returncode == 0, again.stderr
    for run, before in weights.items():
        assert (tmp_path / "runs" / "demo" / run / "model.safetensors").read_bytes() == before, (
            f"{run} was trained again"
        )
