"""What a folder or archive says by its names, and what is left out of it."""

import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest

from limner.data import DataConfig, open_data
from limner.data.check import check, contact_sheet, lines
from limner.errors import UserError
from pictures import encode, photo, photos, write, write_zip


def both(source, **options):
    config = DataConfig(str(source), **options)
    return open_data(config), open_data(config, split="test")


def reasons(source, **options) -> dict[str, str]:
    return dict(check(DataConfig(str(source), **options)).refused)


def test_a_plain_folder(tmp_path):
    data = open_data(DataConfig(str(write(tmp_path / "pets", photos(20))), test_fraction=0))
    assert (len(data), data.size, data.channels, data.labels, data.classes) == (20, 24, 3, None, 0)
    assert data.name == "pets"
    assert data.names == [f"{i:03d}.png" for i in range(20)]
    assert np.array_equal(data.images[7], photo(7))


def test_grey_images_need_one_channel(tmp_path):
    write(tmp_path, photos(4, channels=1))
    assert open_data(DataConfig(str(tmp_path), test_fraction=0)).channels == 1
    assert open_data(DataConfig(str(tmp_path), test_fraction=0, channels=3)).images.shape == (4, 24, 24, 3)
    write(tmp_path, {"colour.png": encode(photo(9))})
    assert open_data(DataConfig(str(tmp_path), test_fraction=0)).channels == 3
    assert open_data(DataConfig(str(tmp_path), test_fraction=0, channels=1)).images.shape == (5, 24, 24, 1)


def test_class_folders(tmp_path):
    write(tmp_path, photos(5, "dog/") | photos(4, "cat/deep/", 100))
    data = open_data(DataConfig(str(tmp_path), test_fraction=0))
    assert data.class_names == ["cat", "dog"]
    assert [data.class_names[i] for i in data.labels] == [n.split("/")[0] for n in data.names]
    assert np.bincount(data.labels).tolist() == [4, 5]


def test_own_split_with_classes_and_a_wrapping_folder(tmp_path):
    files = photos(4, "in/train/a/") | photos(3, "in/train/b/", 50) | photos(2, "in/test/b/", 90)
    train, test = both(write(tmp_path, files))
    assert (len(train), len(test)) == (7, 2)
    assert train.class_names == test.class_names == ["a", "b"]
    assert test.labels.tolist() == [1, 1]


def test_val_is_the_test_set_unless_there_is_one(tmp_path):
    write(tmp_path, photos(4, "train/") | photos(3, "val/", 50))
    assert [len(d) for d in both(tmp_path)] == [4, 3]
    write(tmp_path, photos(2, "test/", 90))
    assert [len(d) for d in both(tmp_path)] == [4, 2]
    assert "test/ is the test set" in reasons(tmp_path)["val/"]


def test_the_split_is_by_content(tmp_path):
    train, test = both(write(tmp_path / "a", photos(300)), size=8)
    assert 15 <= len(test) <= 48
    assert len(train) + len(test) == 300
    renamed = {f"other{k}": v for k, v in photos(300).items() if k != test.names[0]}
    _, fewer = both(write(tmp_path / "b", renamed), size=16, resize="box")
    assert fewer.names == [f"other{n}" for n in test.names[1:]]
    other = open_data(DataConfig(str(tmp_path / "a"), size=8, data_seed=1), split="test")
    assert other.names != test.names


def test_splits_share_no_duplicate(tmp_path):
    files = photos(40, "train/") | photos(10, "test/", 100)
    files["test/again.png"] = files["train/007.png"]
    files["train/copy.bmp"] = encode(photo(3), "BMP")
    train, test = both(write(tmp_path, files), size=8)
    shared = {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}
    assert not shared
    assert (len(train), len(test)) == (39, 11)
    assert reasons(tmp_path) == {
        "train/007.png": "duplicate of test/again.png (in the test split)",
        "train/copy.bmp": "duplicate of train/003.png",
    }


def test_each_refusal_by_name_and_reason(tmp_path):
    files = photos(6) | {
        "empty.png": b"",
        "page.jpg": b"<html>",
        "cut.png": encode(photo(50, 99, 99))[:-900],
        "huge.png": encode(photo(51, 300, 300)),
        "same.png": photos(1)["000.png"],
        "notes.md": "hello",
        ".hidden.png": b"",
    }
    write(tmp_path, files)
    os.symlink(tmp_path / "nowhere.png", tmp_path / "broken.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = reasons(tmp_path, max_pixels=80_000)
    assert found.pop("cut.png").startswith("damaged or truncated")
    assert found == {
        "empty.png": "zero bytes",
        "page.jpg": "not an image, or its beginning is damaged",
        "huge.png": "decompression bomb: 300x300 pixels, more than --max-pixels 80000",
        "same.png": "duplicate of 000.png",
        "notes.md": "not an image (a .md file)",
        "broken.png": "broken link",
        "pipe.png": "not a regular file",
    }
    wrong = reasons(tmp_path, size=24, crop="none")
    assert wrong["huge.png"] == "wrong size: 300x300, not 24x24 (--crop none)"


def test_a_folder_that_links_to_itself_ends(tmp_path):
    write(tmp_path, photos(3))
    os.symlink(tmp_path, tmp_path / "loop")
    assert len(open_data(DataConfig(str(tmp_path), test_fraction=0))) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "missing", "no file or folder"),
        (lambda p: write(p, {"a.png": b""}), "no usable image.*a.png: zero bytes"),
        (lambda p: p, "has no images"),
        (lambda p: write(p, {"x.txt": "1"}) / "x.txt", "not a folder, a zip, a tar or an IDX file"),
        (lambda p: write(p, photos(2) | {"dataset.json": "[1]"}), "StyleGAN"),
        (lambda p: write(p, photos(2) | {"dataset.json": "{"}), "is not JSON"),
        (lambda p: write(p, photos(2) | {"captions.txt": b"\xff\xfe\xfd"}), "UTF-8"),
        (lambda p: write(p, {"x.zip": b"PK\x03\x04 no"}) / "x.zip", "not a zip file, or is damaged"),
        (lambda p: write(p, {"x.tar": b"no" * 999}) / "x.tar", "not a tar file, or is damaged"),
        (lambda p: write(p, {"x.tgz": b"\x1f\x8b" + b"no" * 99}) / "x.tgz", "not a tar file, or is damaged"),
    ],
)
def test_what_cannot_be_opened_is_said_clearly(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        open_data(str(make(tmp_path)))


def test_an_empty_split_names_the_flag(tmp_path):
    write(tmp_path, photos(2))
    with pytest.raises(UserError, match="--test-fraction 0"):
        open_data(DataConfig(str(tmp_path), test_fraction=0), split="test")


def test_a_name_almost_right(tmp_path):
    with pytest.raises(UserError, match="did you mean 'fashion-mini'"):
        open_data("fashion_mini")


def test_limit_takes_some_of_each_class(tmp_path):
    write(tmp_path, photos(30, "a/") | photos(30, "b/", 100))
    data = open_data(DataConfig(str(tmp_path), test_fraction=0, limit=20))
    assert len(data) == 20
    assert min(np.bincount(data.labels)) >= 4
    assert data.names == open_data(DataConfig(str(tmp_path), test_fraction=0, limit=20)).names


def test_captions_txt(tmp_path):
    text = 'image,caption\n000.png,"a red, round thing"\n001\ttwo\n002.png: three\n003.png four words here now\n'
    text += "missing.png\tx\n000.png,second\n"
    write(tmp_path, photos(5) | {"captions.txt": text})
    data = open_data(DataConfig(str(tmp_path), test_fraction=0))
    assert data.captions == ["a red, round thing", "two", "three", "four words here now", ""]
    assert data.caption([1, 0]) == ["two", "a red, round thing"]
    assert dict(data.refused) == {"captions.txt, line 6": "names no usable image"}


def test_metadata_jsonl(tmp_path):
    records = [
        {"file_name": f"images/{i:03d}.png", "text": f"no {i}", "label": "odd" if i % 2 else "even"} for i in range(4)
    ]
    text = "\n".join([*map(json.dumps, records), "{oops", json.dumps({"file_name": "../../etc/passwd"}), '{"x": 1}'])
    write(tmp_path, photos(5, "images/") | {"metadata.jsonl": text})
    data = open_data(DataConfig(str(tmp_path), test_fraction=0))
    assert (data.class_names, data.labels.tolist()) == (["even", "odd"], [0, 1, 0, 1])
    assert data.captions == ["no 0", "no 1", "no 2", "no 3"]
    assert dict(data.refused) == {
        "metadata.jsonl, line 5": "is not JSON",
        "metadata.jsonl, line 6": "names no usable image: '../../etc/passwd'",
        "metadata.jsonl, line 7": 'has no "file_name"',
        "images/004.png": "has no label, and others have",
    }


def test_a_zip_with_dataset_json(tmp_path):
    files = photos(3, "00000/img") | photos(3, "00001/img", 50)
    labels = [[name, i % 3] for i, name in enumerate(files)]
    source = write_zip(tmp_path / "set.zip", files | {"dataset.json": json.dumps({"labels": labels})})
    data = open_data(DataConfig(str(source), test_fraction=0))
    assert (data.name, data.class_names, data.labels.tolist()) == ("set", ["0", "1", "2"], [0, 1, 2, 0, 1, 2])
    assert np.array_equal(data.images[4], photo(51))
    unlabelled = write_zip(tmp_path / "none.zip", files | {"dataset.json": '{"labels": null}'})
    assert open_data(DataConfig(str(unlabelled), test_fraction=0)).labels is None


def test_vectors_as_labels_are_refused_line_by_line(tmp_path):
    labels = {"labels": [["000.png", [0.1, 0.2]], ["001.png", -1], ["002.png", True]]}
    data = open_data(
        DataConfig(str(write(tmp_path, photos(3) | {"dataset.json": json.dumps(labels)})), test_fraction=0)
    )
    assert data.labels is None
    assert [r.name for r in data.refused] == [f"dataset.json, label {i}" for i in range(3)]


def test_zip_members_that_leave_the_archive_are_refused(tmp_path):
    path = tmp_path / "bad.zip"
    good = photos(3)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in good.items():
            archive.writestr(name, content)
        for name in ("../up.png", "/abs.png", "a/../../b.png", "C:\\win.png", "..\\back.png"):
            archive.writestr(name, encode(photo(60)))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    before = set(tmp_path.parent.rglob("*.png"))
    data = open_data(DataConfig(str(path), test_fraction=0))
    assert data.names == sorted(good)
    assert dict(data.refused) == {
        "../up.png": "a path with '..' in it",
        "/abs.png": "an absolute path",
        "a/../../b.png": "a path with '..' in it",
        "C:\\win.png": "an absolute path",
        "..\\back.png": "a path with '..' in it",
        "link.png": "a link",
    }
    assert set(tmp_path.parent.rglob("*.png")) == before


@pytest.mark.parametrize("packing", ["", "gz", "xz", "bz2"])
def test_tar_members_likewise(tmp_path, packing):
    path = tmp_path / f"set.tar{'.' if packing else ''}{packing}"
    with tarfile.open(path, f"w:{packing}") as archive:
        for name, content in (photos(3, "in/") | {"../up.png": b"x", "/abs.png": b"x"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind in (("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("dev.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    data = open_data(DataConfig(str(path), test_fraction=0))
    assert data.name == "set"
    assert np.array_equal(data.images, np.stack([photo(i) for i in range(3)]))
    assert dict(data.refused) == {
        "../up.png": "a path with '..' in it",
        "/abs.png": "an absolute path",
        "soft.png": "a link",
        "hard.png": "a link",
        "dev.png": "not a regular file",
    }


def test_a_compressed_tar_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("limner.data.archives.UNPACKED_FLOOR", 1 << 20)
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("zeros.png")
        info.size = 20 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(UserError, match="decompression bomb"):
        open_data(str(path))


def test_unpaired_domains(tmp_path):
    write(tmp_path, photos(12, "A/") | photos(7, "B/x", 100))
    data = open_data(DataConfig(str(tmp_path), test_fraction=0))
    assert (len(data), data.paired, [len(d) for d in data.domains.values()]) == (12, False, [12, 7])
    batch = data.draw(0, 0, 12)
    assert set(batch) == {"A", "B"}
    assert batch["A"].shape == batch["B"].shape == (12, 3, 24, 24)
    seen = {tuple(i.flatten().tolist()) for i in batch["B"]}
    assert len(seen) == 7
    later = [data.draw(0, 12 * k, 12) for k in (1, 2)]
    partner = [{a.sum().item(): b.sum().item() for a, b in zip(x["A"], x["B"], strict=True)} for x in (batch, *later)]
    assert any(partner[0][a] != partner[1][a] for a in partner[0]), "A and B must be shuffled independently"


def test_paired_domains_keep_partners_together(tmp_path):
    files = {}
    for i in range(20):
        split = "train" if i < 15 else "test"
        files |= {f"{split}A/{i}.png": encode(photo(i)), f"{split}B/{i}.png": encode(photo(1000 + i))}
    files["trainB/3.png"] = b""
    write(tmp_path, files)
    train, test = both(tmp_path)
    assert train.paired
    assert test.paired
    assert (len(train), len(test)) == (14, 5)
    numbers = [int(n.split("/")[1].split(".")[0]) for n in train.domains["A"].names]
    assert 3 not in numbers
    for a, b, i in zip(train.domains["A"].images, train.domains["B"].images, numbers, strict=True):
        assert np.array_equal(a, photo(i))
        assert np.array_equal(b, photo(1000 + i))
    assert dict(train.refused)["trainA/3.png"].startswith("its partner")
    picked = train.subset([4, 2])
    assert picked.paired
    assert np.array_equal(picked.domains["B"].images[1], photo(1000 + numbers[2]))


def test_paired_domains_split_by_content_stay_paired(tmp_path):
    write(tmp_path, photos(60, "A/", channels=1) | photos(60, "B/", 100))
    train, test = both(tmp_path, size=8)
    assert len(train) + len(test) == 60
    assert len(test) >= 1
    for data in (train, test):
        assert [n[2:] for n in data.domains["A"].names] == [n[2:] for n in data.domains["B"].names]


def test_report_and_contact_sheet(tmp_path):
    write(
        tmp_path, photos(5, "a/") | photos(4, "b/", 40, width=30) | {"a/z.png": b"", "b/copy.png": photos(1)["000.png"]}
    )
    report = check(DataConfig(str(tmp_path), test_fraction=0))
    assert report.usable == {"train": 9, "test": 0}
    assert report.sizes == {"24x24": 6, "30x24": 4}
    assert report.classes == {"a": 5, "b": 4}
    assert [r.name for r in report.duplicates] == ["b/copy.png"]
    text = lines(report)
    assert any("a/z.png: zero bytes" in line for line in text)
    assert any("16x16 by lanczos (antialiased)" in line for line in text)
    sheet = contact_sheet(open_data(DataConfig(str(tmp_path), test_fraction=0)))
    assert sheet.size == (3 * 66 + 2, 3 * 66 + 2)


def test_check_reports_even_if_nothing_is_usable(tmp_path):
    report = check(str(write(tmp_path, {"a.png": b"", "b.png": b"x"})))
    assert report.usable == {"train": 0, "test": 0}
    assert len(report.refused) == 2
    assert lines(report)
