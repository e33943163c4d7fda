"""Results from disk are those of the transforms; nothing stale or damaged is taken for them."""

import logging
import os
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd

from monai_vmat import beams, masks
from monai_vmat.case import write_case
from monai_vmat.datasets import CaseDataset
from monai_vmat.distributed import SPARE
from monai_vmat.errors import InputError
from monai_vmat.masks import DOSE_REGION, unpack_mask
from monai_vmat.transforms import load_case
from monai_vmat.transforms.compose_image import ComposeImaged
from monai_vmat.transforms.dose_weighted_crop import DoseWeightedCropd
from monai_vmat.transforms.encode_constraints import EncodeConstraintsd
from monai_vmat.transforms.load_case import LoadCased
from monai_vmat.transforms.signed_distance import SignedDistanced
from monai_vmat.transforms.stored import Stored

VOLUMES = ("image", "label", "structures")


class Counted(ComposeImaged):
    calls = 0

    def __call__(self, data):
        type(self).calls += 1
        return super().__call__(data)


def steps(protocol):
    return [
        LoadCased(protocol=protocol, require_dose=True),
        SignedDistanced(protocol=protocol),
        EncodeConstraintsd(protocol=protocol),
        Counted(protocol=protocol),
    ]


@pytest.fixture
def store(tmp_path, prostate):
    Counted.calls = 0
    return Stored(steps(prostate), folder=tmp_path / "cache")


@pytest.fixture
def item(tmp_path, prostate, make_case):
    write_case(make_case(prostate), tmp_path / "case_1.npz")
    return {"case": str(tmp_path / "case_1.npz"), "case_id": "case_1", "patient": "p", "constraints": {"Rectum_V50Gy": 0.3}}


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert type(value) is type(other[name]), name
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[name].dtype and torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name
            if isinstance(value, MetaTensor):
                assert torch.equal(value.affine, other[name].affine) and value.affine.dtype == other[name].affine.dtype
        else:
            assert value == other[name]
    return True


def test_the_second_time_it_is_read(store, item, prostate):
    plain = Compose(steps(prostate))(item)
    Counted.calls = 0
    assert same(store(item), plain) and same(store(item), plain) and Counted.calls == 1
    assert store({**item, SPARE: True})[SPARE] and Counted.calls == 1


def patches(data, where, protocol, **options):
    """What a training sees of the cases in two epochs."""
    crop = CropForegroundd(
        keys=VOLUMES,
        source_key="structures",
        select_fn=lambda bits: unpack_mask(bits, DOSE_REGION, protocol),
        allow_smaller=True,
    )
    random = DoseWeightedCropd(keys=VOLUMES, patch_size=(8, 8, 8), num_samples=2)
    first = steps(protocol) if where is None else [Stored(steps(protocol), folder=where)]
    dataset = CaseDataset(data, [*first, crop, random], seed=3, progress=False, **options)
    return [
        patch[name] for epoch in (1, 2) for index in range(len(data)) for patch in dataset[(epoch, index)] for name in VOLUMES
    ]


def test_a_training_sees_the_same_to_the_bit(tmp_path, prostate, make_case, write_v2):
    """Without the folder, filling it, reading it; from memory and from disk alone; native and v2.x files."""
    write_case(make_case(prostate, seed=1), tmp_path / "a.npz")
    write_v2(tmp_path / "b.npz")
    data = [{"case": str(tmp_path / name), "case_id": name[0], "patient": name[0]} for name in ("a.npz", "b.npz")]
    expected = patches(data, None, prostate)
    for where, rate in ((None, 0.0), (tmp_path / "cache", 0.0), (tmp_path / "cache", 0.0), (tmp_path / "cache", 1.0)):
        found = patches(data, where, prostate, cache_rate=rate)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_whatever_it_depends_on_makes_it_new(store, item, prostate, make_case, tmp_path, monkeypatch):
    store(item)
    written = tmp_path / "case_1.npz"
    before = written.stat()
    case = make_case(prostate)
    write_case(replace(case, ct_hu=case.ct_hu + (case.ct_hu == 0).astype("int16")), written)  # some voxels
    os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert torch.equal(store(item)["image"], Compose(steps(prostate))(item)["image"])
    Counted.calls = 0
    store(item)
    store({**item, "constraints": {"Rectum_V50Gy": 0.4}})
    other = replace(prostate, absent_signed_distance=1.0)
    Stored(steps(other), folder=store.folder)(item)
    set_otherwise = steps(prostate)
    set_otherwise[1] = SignedDistanced(protocol=prostate, threads=2)
    Stored(set_otherwise, folder=store.folder)(item)
    changed = tmp_path / "load_case.py"
    changed.write_text(Path(load_case.__file__).read_text() + "\n# another version")
    monkeypatch.setattr(load_case, "__file__", str(changed))
    Stored(steps(prostate), folder=store.folder)(item)
    assert Counted.calls == 4 and len(list(store.folder.iterdir())) == 6


@pytest.mark.parametrize("module", [beams, masks, load_case])
def test_the_code_that_transforms_rest_on_counts(item, prostate, tmp_path, monkeypatch, module):
    """Also of modules that they only call: a transform, what it calls, and what every case passes through."""
    before = Stored([ComposeImaged(protocol=prostate)], folder=tmp_path)._path(item)
    changed = tmp_path / "changed.py"
    changed.write_text(Path(module.__file__).read_text() + "# another\n")
    assert Stored([ComposeImaged(protocol=prostate)], folder=tmp_path)._path(item) == before
    monkeypatch.setattr(module, "__file__", str(changed))
    assert Stored([ComposeImaged(protocol=prostate)], folder=tmp_path)._path(item) != before


def test_a_moved_case_keeps_its_file(store, item, tmp_path):
    store(item)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(item["case"], tmp_path / "elsewhere" / "case_1.npz")
    moved = {**item, "case": str(tmp_path / "elsewhere" / "case_1.npz")}
    assert store(moved)["case"] == moved["case"] and Counted.calls == 1


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip(path):
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename == "image.npy")
    content = bytearray(path.read_bytes())
    content[entry.header_offset + 30 + len("image.npy") + 20 + entry.compress_size // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_made_again(store, item, caplog, damage):
    whole = store(item)
    (path,) = store.folder.iterdir()
    content = path.read_bytes()
    damage(path)
    assert path.read_bytes() != content
    with caplog.at_level(logging.WARNING):
        assert same(store(item), whole)
    assert "made again" in caplog.text and path.name in caplog.text and Counted.calls == 2
    assert same(store(item), whole) and Counted.calls == 2


def test_a_bad_case_is_told_as_ever_and_leaves_nothing(store, item, tmp_path):
    (tmp_path / "case_1.npz").write_bytes(b"PK no archive")
    with pytest.raises(InputError, match="case_1.npz"):
        store(item)
    assert not store.folder.exists()


def test_several_fill_it_together(store, item, prostate):
    """Those that begin at once all make the file; one whole file is left."""
    barrier = threading.Barrier(4)

    def begin(number):
        barrier.wait()
        return store(item)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(begin, range(4)))
    assert all(same(f, found[0]) for f in found) and same(store(item), found[0])
    (path,) = store.folder.iterdir()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
