"""Soft DVH points: laws, gradients, and agreement with the exact ones on whatever distribution."""

import importlib.util

import numpy as np
import pytest
import torch

from monai_vmat.losses.soft_dvh import ramp_reach, soft_dose_at_volume, soft_volume_at_dose
from monai_vmat.metrics.dvh import dose_at_volume, volume_at_dose

RX_GY = 70.0


def volume(dose, threshold, unit=1.0, band=0.02):
    return soft_volume_at_dose(dose, threshold, ramp_reach(dose, threshold, 0.05 * unit, 5.0 * unit, band))


def distributions():
    rng = np.random.default_rng(0)
    yield "narrow", rng.normal(70, 0.3, 5000)
    yield "tail", 70 - rng.exponential(3, 5000)
    yield "wide", rng.uniform(0, 75, 3000)
    yield "two plateaus", np.concatenate([rng.normal(69, 0.1, 200), rng.normal(20, 5, 200)])
    yield "hundred voxels", rng.normal(60, 5, 100)
    yield "uniform", np.full(1000, 66.6)


@pytest.mark.parametrize("name, dose_gy", list(distributions()), ids=lambda v: v if isinstance(v, str) else "")
def test_near_the_exact_dvh(name, dose_gy):
    dose = torch.as_tensor(dose_gy / RX_GY)
    assert RX_GY * float(soft_dose_at_volume(dose, 95)) == pytest.approx(dose_at_volume(dose_gy, 95), abs=0.2)
    assert RX_GY * float(soft_dose_at_volume(dose, 99)) == pytest.approx(dose_at_volume(dose_gy, 99), abs=0.5)
    for x in (20, 50, 65, 69, 70, 71, 80):
        found = 100 * float(volume(dose, x / RX_GY, 1 / RX_GY))
        assert found == pytest.approx(volume_at_dose(dose_gy, x), abs=1.0), x


def test_near_the_exact_dvh_of_real_plans(openkbp_dir):
    """0.2 Gy for D95 of targets, 1 percentage point for Vx of organs, every 8th patient."""
    spec = importlib.util.spec_from_file_location("openkbp_expand", openkbp_dir / "expand.py")
    expand = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(expand)
    d95, vx, shifts = [], [], []
    for path in sorted(openkbp_dir.glob("*/pt_*.npz"))[::8]:
        patient = expand.read(path)
        for name, mask in zip(expand.ROIS, patient["masks"], strict=True):
            dose_gy = patient["dose"][mask]
            if dose_gy.size < 100:
                continue
            dose = torch.as_tensor(dose_gy / RX_GY, dtype=torch.float32)
            if name.startswith("PTV"):
                soft = float(soft_dose_at_volume(dose, 95))
                d95.append(RX_GY * soft - dose_at_volume(dose_gy, 95))
                shifts.append(RX_GY * (float(soft_dose_at_volume(dose + 1 / RX_GY, 95)) - soft))
            else:
                for x in (20, 30, 45, 60, 70):
                    soft = 100 * float(volume(dose, x / RX_GY, 1 / RX_GY))
                    vx.append(soft - volume_at_dose(dose_gy, x))
    assert len(d95) > 20 and len(vx) > 200
    assert np.abs(d95).max() <= 0.2 and np.abs(vx).max() <= 1.0
    assert np.abs(np.asarray(shifts) - 1).max() <= 0.02


def test_by_hand():
    dose = torch.arange(101.0)  # rank i has dose i; a symmetric band about rank 5
    assert float(soft_dose_at_volume(dose, 95, band=0.02)) == pytest.approx(5.0)
    # band/2 would be a voxel: the numpy percentile. Ranks 0..3 hold 0, 1, 10, 100; rank 0.15 is 0.85 * 0 + 0.15 * 1.
    assert float(soft_dose_at_volume(torch.tensor([10.0, 0.0, 100.0, 1.0]), 95)) == pytest.approx(0.15)
    # Squares at ranks 4, 5, 6 weigh 1, 2, 1 in a band of half-width 2: (16 + 2 * 25 + 36) / 4.
    assert float(soft_dose_at_volume(dose**2, 95, band=0.02)) == pytest.approx(25.5)
    # Above 3: 0.5 and 7, the nearest reaches 0.5; below: 1, 2, 3, reach 1: (0 + 0 + 0 + 1 + 1) / 5, wrong by nothing.
    doses = torch.tensor([0.0, 1.0, 2.0, 3.5, 10.0])
    assert float(volume(doses, 3.0, band=0.2)) == pytest.approx(0.4)
    # The second nearest: above 7, cut to 5, below 2: (0 + 0 + (1/2 - 1/4) + (1/2 + 0.5/10) + 1) / 5.
    assert float(volume(doses, 3.0, band=0.4)) == pytest.approx(1.8 / 5)


def test_no_dose_is_no_volume():
    assert float(volume(torch.zeros(1000), 50 / RX_GY, 1 / RX_GY)) == 0.0
    assert float(volume(torch.ones(1000), 50 / RX_GY, 1 / RX_GY)) == 1.0


def test_a_shift_and_a_scaling_are_followed():
    dose = torch.as_tensor(np.random.default_rng(1).gamma(9, 7, 2000))
    d95 = soft_dose_at_volume(dose, 95)
    assert float(soft_dose_at_volume(dose + 1, 95) - d95) == pytest.approx(1.0, abs=1e-9)
    assert float(soft_dose_at_volume(3 * dose, 95)) == pytest.approx(3 * float(d95), rel=1e-9)
    vx = volume(dose, 50.0)
    assert float(volume(3 * dose, 150.0, 3.0)) == pytest.approx(float(vx), rel=1e-9)
    assert float(volume(dose + 1, 51.0)) == pytest.approx(float(vx), rel=1e-9)


def test_gradients():
    rng = np.random.default_rng(2)
    dose = torch.tensor(rng.normal(60, 5, 150), requires_grad=True)
    for percent in (95, 99, 50, 2):
        assert torch.autograd.gradcheck(lambda d: soft_dose_at_volume(d, percent), dose)
        assert torch.autograd.gradcheck(lambda d: soft_dose_at_volume(d, percent, 0.1), dose)
    for threshold in (50.0, 58.0, 60.0, 70.0):
        assert torch.autograd.gradcheck(lambda d: soft_volume_at_dose(d, threshold, (2.0, 3.0)), dose)


def test_many_voxels_are_told_and_the_dose_moves():
    rng = np.random.default_rng(3)
    dose = torch.tensor(rng.normal(60, 5, 4000), requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_dose_at_volume(dose, 95), dose)
    assert int((gradient > 0).sum()) > 100 and float(gradient.sum()) == pytest.approx(1.0) and (gradient >= 0).all()
    (gradient,) = torch.autograd.grad(volume(dose, 60.0), dose)
    assert int((gradient > 0).sum()) > 120
    optimizer = torch.optim.Adam([dose], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        ((58 - soft_dose_at_volume(dose, 95)).relu() + 10 * (volume(dose, 66.0) - 0.05).relu()).backward()
        optimizer.step()
    assert dose_at_volume(dose.detach().numpy(), 95) > 57.5 and volume_at_dose(dose.detach().numpy(), 66) < 6.5
