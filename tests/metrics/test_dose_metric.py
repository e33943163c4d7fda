"""What the MONAI metrics share: where the spacing comes from, the unit of dose, lists of cases, the mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_vmat.errors import InputError
from monai_vmat.metrics.dose_metric import DoseMetric

ONE, OTHER = (3.0, 2.0, 2.5), (1.0, 1.5, 4.0)
TURN = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


class HighDose(DoseMetric):
    """Volume in cc above 35 Gy of prediction and reference; NaN where the reference has none."""

    def _compute_tensor(self, y_pred, y=None, **kwargs):
        rows = []
        for case, spacing in enumerate(self._spacings(kwargs.get("spacing"), y, len(y))):
            volumes = [float((self.volume(dose[case]) > 35).sum() * np.prod(spacing) / 1000) for dose in (y_pred, y)]
            rows.append(volumes if volumes[1] else [np.nan, np.nan])
        return torch.tensor(rows)


@pytest.fixture
def batch():
    """Two cases as fractions of 70 Gy: 10 and 20 voxels above the half predicted, 5 and 40 in the reference."""
    y_pred, y = torch.zeros(2, 1, 5, 4, 3), torch.zeros(2, 1, 5, 4, 3)
    for dose, counts in ((y_pred, (10, 20)), (y, (5, 40))):
        for case, count in enumerate(counts):
            dose[case].view(-1)[:count] = 0.6
    return y_pred, y


def expected(*spacings):
    counts = np.array([[10, 5], [20, 40]])
    return (counts * np.prod(spacings, axis=1)[:, None] / 1000).astype(np.float32)


def located(y, spacings):
    affines = [torch.diag(torch.tensor([-s[0], -s[1], s[2], 1.0])) for s in spacings]
    return [MetaTensor(r, affine=a) for r, a in zip(y, affines, strict=True)]


def test_where_the_spacing_comes_from(batch):
    """The call's, else the metric's, else that of the reference's affine."""
    y_pred, y = batch
    plain, own = HighDose(scale_gy=70.0), HighDose(scale_gy=70.0, spacing_mm=ONE)
    stacked = MetaTensor(y, affine=torch.diag(torch.tensor([-1.0, -1.5, 4.0, 1.0])))
    oblique = MetaTensor(y, affine=torch.tensor(TURN @ np.diag([*OTHER, 1.0])))
    for found, spacings in (
        (plain(y_pred, y, spacing=ONE), (ONE, ONE)),
        (plain(y_pred, y, spacing=[ONE, OTHER]), (ONE, OTHER)),
        (plain(list(y_pred), list(y), spacing=[ONE, OTHER]), (ONE, OTHER)),
        (plain(list(y_pred), located(y, (ONE, OTHER))), (ONE, OTHER)),
        (plain(y_pred, stacked), (OTHER, OTHER)),
        (plain(y_pred, oblique), (OTHER, OTHER)),
        (own(y_pred, stacked), (ONE, ONE)),
        (own(y_pred, stacked, spacing=OTHER), (OTHER, OTHER)),
    ):
        np.testing.assert_allclose(found, expected(*spacings), rtol=1e-6)


def test_spacing_that_is_nowhere_or_of_other_cases(batch):
    with pytest.raises(InputError, match="HighDose: spacing: neither given to HighDose nor to its call"):
        HighDose()(*batch)
    with pytest.raises(InputError, match=r"HighDose: spacing: has shape \(3, 3\)"):
        HighDose()(*batch, spacing=[ONE] * 3)


def test_cases_of_different_sizes_add_up_until_reset(batch):
    y_pred, y = batch
    metric = HighDose(scale_gy=70.0, spacing_mm=ONE)
    metric(y_pred, y)
    metric([d[:, :4] for d in y_pred], [d[:, :4] for d in y])
    first = expected(ONE, ONE)
    assert metric.aggregate("none").shape == (4, 2)
    np.testing.assert_allclose(metric.aggregate("mean_batch"), first.mean(0), rtol=1e-6)
    metric.reset()
    with pytest.raises(InputError, match="HighDose: no case was given"):
        metric.aggregate()


def test_what_cannot_be_measured_is_left_out_and_never_zero(batch):
    y_pred, y = batch
    metric = HighDose(scale_gy=70.0, spacing_mm=ONE, reduction="mean_batch", get_not_nans=True)
    metric(y_pred, y * torch.tensor([1.0, 0.1])[:, None, None, None, None])
    mean, counted = metric.aggregate()
    np.testing.assert_allclose(mean, expected(ONE, ONE)[0], rtol=1e-6)
    assert counted.tolist() == [1, 1]
    metric.reset()
    metric(y_pred, 0 * y)
    mean, counted = metric.aggregate()
    assert torch.isnan(mean).all() and counted.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32, torch.float64))
def test_doses_are_scaled_in_single_precision_or_better(dtype):
    """A third of 70 Gy: in bfloat16 the product would be 23.375."""
    dose = MetaTensor(torch.full((2, 2, 2), 1 / 3, dtype=dtype), affine=torch.eye(4))
    found = HighDose(scale_gy=70.0).volume(dose)
    assert type(found) is torch.Tensor and found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found[0, 0, 0].item() == pytest.approx(float(dose[0, 0, 0]) * 70, rel=1e-6)
