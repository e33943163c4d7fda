"""The MONAI metric: batches, lists, spacings, scales, handlers and configurations."""

import doctest

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler

from monai_vmat.errors import InputError
from monai_vmat.metrics import gamma3d
from monai_vmat.metrics.gamma import gamma_pass_rate
from monai_vmat.metrics.gamma3d import Gamma3D

SPACING = (3.0, 2.0, 2.5)


@pytest.fixture
def batch():
    """Two cases as fractions of 70 Gy; the second prediction is worse."""
    random = torch.Generator().manual_seed(0)
    y = torch.rand(2, 1, 9, 8, 7, generator=random)
    y_pred = y + torch.tensor([0.02, 0.2])[:, None, None, None, None] * torch.randn(y.shape, generator=random)
    return y_pred, y


def rates(y_pred, y, spacing=SPACING, **options):
    return [gamma_pass_rate(70 * r[0], 70 * p[0], spacing, **options) for p, r in zip(y_pred, y, strict=True)]


@pytest.mark.parametrize(
    ("criteria", "options"),
    [((3, 3), {}), ((2, 2), {"local": True}), ((3, 3), {"normalisation_gy": 70.0, "cutoff_percent": 50.0, "mode": "sampled"})],
)
def test_rates_of_cases_and_their_mean(batch, criteria, options):
    metric = Gamma3D(*criteria, SPACING, scale_gy=70.0, **options)
    found = metric(*batch)
    expected = rates(*batch, dose_percent=criteria[0], distance_mm=criteria[1], **options)
    assert found.shape == (2, 1) and found[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert expected[0] > expected[1] + 1
    metric([p[:, :-1] for p in batch[0]], [r[:, :-1] for r in batch[1]])
    expected += rates(batch[0][:, :, :-1], batch[1][:, :, :-1], dose_percent=criteria[0], distance_mm=criteria[1], **options)
    assert metric.aggregate().item() == pytest.approx(np.mean(expected), abs=1e-4)
    assert metric.aggregate("none").shape == (4, 1)
    metric.reset()
    with pytest.raises(InputError, match="no case was given"):
        metric.aggregate()


def test_where_the_spacing_comes_from(batch):
    y_pred, y = batch
    other = (1.0, 1.5, 4.0)
    expected, otherwise = rates(y_pred, y), rates(y_pred, y, other)
    assert expected != otherwise
    plain = Gamma3D(scale_gy=70.0)
    assert plain(y_pred, y, spacing=SPACING)[:, 0].tolist() == pytest.approx(expected, abs=1e-4)
    assert plain(list(y_pred), list(y), spacing=[SPACING, other])[:, 0].tolist() == pytest.approx([expected[0], otherwise[1]])
    affines = [torch.diag(torch.tensor([-s[0], -s[1], s[2], 1.0])) for s in (SPACING, other)]
    located = [MetaTensor(r, affine=a) for r, a in zip(y, affines, strict=True)]
    assert plain(list(y_pred), located)[:, 0].tolist() == pytest.approx([expected[0], otherwise[1]])
    stacked = MetaTensor(y, affine=affines[1])
    assert plain(y_pred, stacked)[:, 0].tolist() == pytest.approx(otherwise, abs=1e-4)
    assert Gamma3D(spacing_mm=SPACING, scale_gy=70.0)(y_pred, stacked)[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_case_below_the_cutoff_is_left_out(batch):
    y_pred, y = batch
    metric = Gamma3D(spacing_mm=SPACING, scale_gy=70.0, normalisation_gy=70.0, get_not_nans=True)
    found = metric(y_pred, y * torch.tensor([1, 0.01])[:, None, None, None, None])
    assert torch.isnan(found[1, 0])
    mean, counted = metric.aggregate()
    assert mean.item() == pytest.approx(found[0, 0].item()) and counted.item() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_doses(batch, dtype):
    y_pred, y = (d.to(dtype) for d in batch)
    found = Gamma3D(spacing_mm=SPACING, scale_gy=70.0)(y_pred, y)
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == pytest.approx(rates(y_pred.float(), y.float()), abs=1e-4)


def test_in_a_configuration_and_an_engine(batch):
    parser = ConfigParser(
        {
            "metric": {
                "_target_": "monai.handlers.IgniteMetricHandler",
                "metric_fn": {"_target_": "monai_vmat.metrics.gamma3d.Gamma3D", "spacing_mm": SPACING, "scale_gy": 70.0},
            }
        }
    )
    handler = parser.get_parsed_content("metric")
    assert isinstance(handler, IgniteMetricHandler)
    engine = Engine(lambda _, item: item)
    handler.attach(engine, "gamma")
    engine.run([tuple(batch), (list(batch[0]), list(batch[1]))])
    assert engine.state.metrics["gamma"] == pytest.approx(np.mean(rates(*batch)), abs=1e-4)
    assert engine.state.metric_details["gamma"].shape == (4, 1)


def test_what_makes_no_sense_is_refused(batch):
    y_pred, y = batch
    for wrong in ((y_pred, y[:1]), (y_pred[0], y[0]), (y_pred, None), (y_pred.repeat(1, 2, 1, 1, 1), y.repeat(1, 2, 1, 1, 1))):
        with pytest.raises(InputError, match="Gamma3D: shapes"):
            Gamma3D(spacing_mm=SPACING)(*wrong)
    with pytest.raises(InputError, match="Gamma3D: spacing: neither"):
        Gamma3D()(y_pred, y)
    with pytest.raises(InputError, match="Gamma3D: spacing: has shape \\(3, 3\\)"):
        Gamma3D()(y_pred, y, spacing=[SPACING] * 3)
    with pytest.raises(InputError, match="mode: got 'quick'"):
        Gamma3D(spacing_mm=SPACING, mode="quick")(y_pred, y)


def test_example_in_the_docstring():
    result = doctest.testmod(gamma3d)
    assert result.failed == 0 and result.attempted >= 4
