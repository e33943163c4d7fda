"""The sample set, and the grouped search against the plain scan of all samples."""

import numpy as np
import pytest

from monai_vmat.metrics import gamma_sampled
from monai_vmat.metrics.gamma import gamma_map
from monai_vmat.metrics.gamma_sampled import shell_samples


def test_number_of_samples():
    offsets, radii = shell_samples(3.0, 2.0, 10)
    assert len(offsets) == len(radii) == 38787
    assert np.linalg.norm(offsets, axis=1) == pytest.approx(radii, abs=1e-9)
    assert radii.max() <= 6 and 3.0 in radii and (np.diff(radii) >= 0).all() and radii[0] == 0


@pytest.mark.parametrize("fraction", [3, 5, 10])
def test_no_gap_is_wider_than_a_step(fraction):
    offsets, radii = shell_samples(2.0, 1.5, fraction)
    step = 2.0 / fraction
    assert np.diff(np.unique(radii)).max() <= step + 1e-9
    directions = np.random.default_rng(0).standard_normal((50, 3))
    for radius in np.unique(radii):
        shell = offsets[radii == radius]
        points = radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        nearest = np.linalg.norm(points[:, None] - shell, axis=2).min(1)
        assert nearest.max() <= step


@pytest.mark.parametrize("evaluation_origin_mm", [(0, 0, 0), (1.0, -0.7, 0.3), (2.0, 4.0, -3.0)])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_groups_lose_nothing(monkeypatch, dtype, local, evaluation_origin_mm):
    """The same minimum as scanning every sample for every voxel, also at the faces and on displaced grids."""
    random = np.random.default_rng(2)
    doses = [random.uniform(0, 70, (9, 8, 10)).astype(dtype) for _ in range(2)]
    options = {"mode": "sampled", "local": local, "interp_fraction": 5, "evaluation_origin_mm": evaluation_origin_mm}
    found = gamma_map(*doses, (2.0, 2.0, 3.0), 2, 3, **options)
    from monai_vmat.metrics import gamma as module

    related = module.relate_grids
    monkeypatch.setattr(module, "relate_grids", lambda *a: related(*a)._replace(same_lattice=False))
    expected = gamma_map(*doses, (2.0, 2.0, 3.0), 2, 3, **options)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)) <= 5e-5
    assert np.array_equal(found < 1, expected < 1)


def test_single_precision_only_where_it_is_good_enough(monkeypatch):
    """Not beside a hot voxel where a local criterion is 1 % of 0.05 Gy."""
    taken, search = [], gamma_sampled._grouped
    monkeypatch.setattr(gamma_sampled, "_grouped", lambda dose, *rest: (taken.append(dose.dtype), search(dose, *rest)))
    dose = np.random.default_rng(2).uniform(7, 70, (8, 8, 8)).astype(np.float32)
    gamma_map(dose, dose + 1, (3, 3, 3), mode="sampled")
    dose[::2] *= 1e-2
    gamma_map(dose, dose + 1, (3, 3, 3), 1, 3, mode="sampled", local=True, cutoff_percent=0)
    assert taken == [np.float32, np.float64]


def test_the_outer_faces_belong_to_the_grid():
    dose = np.random.default_rng(0).uniform(20, 60, (4, 4, 4)).astype(np.float32)
    assert (gamma_map(dose, dose, (2.0, 2.0, 2.0), mode="sampled") == 0).all()
