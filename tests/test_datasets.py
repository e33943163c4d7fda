"""Randomness is a function of seed, epoch and case; archives are read once."""

import threading
import time

import pytest
import torch
from monai.data import DataLoader
from monai.transforms import MapTransform, Randomizable

from monai_vmat.case import write_case
from monai_vmat.datasets import CaseDataset, EpochSampler
from monai_vmat.errors import InputError
from monai_vmat.transforms.load_case import LoadCased


class Noised(Randomizable, MapTransform):
    def __call__(self, data):
        return {**data, "noise": self.R.random()}


class Counted(MapTransform):
    calls = 0

    def __call__(self, data):
        type(self).calls += 1
        return dict(data)


def epoch(dataset, number, seed=0, **options):
    sampler = EpochSampler(dataset, seed=seed)
    sampler.set_epoch(number)
    return [(int(b["id"]), float(b["noise"])) for b in DataLoader(dataset, batch_size=1, sampler=sampler, **options)]


def dataset(seed=0):
    return CaseDataset([{"id": i} for i in range(6)], [Counted("id"), Noised("id")], seed=seed, progress=False)


def test_the_same_epoch_again_is_the_same_whatever_came_before():
    a, b = dataset(), dataset()
    first = [epoch(a, n) for n in (1, 2, 3)]
    assert epoch(b, 3) == first[2]
    noise = [dict(e) for e in first]  # by case, whatever their order
    assert noise[0] != noise[1] and len(set(noise[0].values())) == 6


def test_workers_do_not_matter():
    assert epoch(dataset(), 2) == epoch(dataset(), 2, num_workers=2)


def test_another_seed_is_another_order_and_noise():
    base, other = epoch(dataset(), 1), epoch(dataset(seed=1), 1, seed=1)
    assert dict(base).values() != dict(other).values()
    assert [i for i, _ in base] != [i for i, _ in epoch(dataset(), 1, seed=5)]


def test_an_epoch_yields_every_case_once_and_differs_in_order():
    orders = [[i for i, _ in epoch(dataset(), n)] for n in range(4)]
    assert all(sorted(o) == list(range(6)) for o in orders) and len({tuple(o) for o in orders}) > 1


def test_deterministic_transforms_run_once():
    Counted.calls = 0
    data = dataset()
    epoch(data, 1), epoch(data, 2)
    assert Counted.calls == 6


def test_no_archive_is_read_after_the_first_epoch(tmp_path, prostate, make_case):
    write_case(make_case(prostate), tmp_path / "a.npz")
    data = CaseDataset([{"case": str(tmp_path / "a.npz")}], [LoadCased(protocol=prostate), Noised("case")], progress=False)
    (tmp_path / "a.npz").unlink()
    assert data[(1, 0)]["ct"].shape == data[(2, 0)]["ct"].shape


def test_the_input_error_arrives_unwrapped(tmp_path, prostate):
    (tmp_path / "bad.npz").write_bytes(b"PK no archive")
    with pytest.raises(InputError, match="bad.npz"):
        CaseDataset([{"case": str(tmp_path / "bad.npz")}], [LoadCased(protocol=prostate)], progress=False)
    lazy = CaseDataset([{"case": str(tmp_path / "bad.npz")}], [LoadCased(protocol=prostate)], cache_rate=0.0, progress=False)
    with pytest.raises(InputError, match="bad.npz"):
        lazy[0]


class Slow(MapTransform):
    def __call__(self, data):
        if data["id"] == 0:
            raise InputError("case 0", "is bad", "Mend it")
        time.sleep(0.3)
        return dict(data)


def test_no_thread_goes_on_reading_after_an_error():
    """A thread still busy in a library when the process ends brings it down with a message of its own."""
    before = threading.active_count()
    with pytest.raises(InputError, match="case 0"):
        CaseDataset([{"id": i} for i in range(20)], [Slow("id")], threads=3, progress=False)
    assert threading.active_count() == before


def test_an_input_error_of_a_worker_process_stays_an_input_error(tmp_path, prostate):
    data = [{"case": str(tmp_path / "none.npz")}]
    lazy = CaseDataset(data, [LoadCased(protocol=prostate)], cache_rate=0.0, progress=False)
    with pytest.raises(InputError) as caught:
        next(iter(DataLoader(lazy, num_workers=1)))
    assert "none.npz: does not exist" in str(caught.value).strip().splitlines()[-1]


def test_sampler_shares_cases_between_processes():
    halves = [EpochSampler(range(6), seed=0, num_replicas=2, rank=r) for r in (0, 1)]
    assert sorted(i for half in halves for _, i in half) == list(range(6))
    assert torch.utils.data.DistributedSampler in type(halves[0]).__mro__  # so that MONAI sets its epoch
