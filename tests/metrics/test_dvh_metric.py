"""The MONAI metric of DVH points: batches, lists, structures, units, handlers and configurations."""

import doctest

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler, from_engine

from monai_vmat.errors import InputError
from monai_vmat.metrics import dvh_metric as module
from monai_vmat.metrics.dvh_metric import DVHMetric

SPACING = (3.0, 2.0, 2.5)


@pytest.fixture
def batch():
    """Two cases as fractions of 70 Gy with two structures; the second case lacks the second."""
    random = torch.Generator().manual_seed(0)
    dose, pred = (torch.rand(2, 1, 9, 8, 7, generator=random) for _ in range(2))
    masks = (torch.rand(2, 2, 9, 8, 7, generator=random) > 0.6).float()
    masks[1, 1] = 0
    return pred, torch.cat([dose, masks], 1)


def doses(batch, case, structure):
    pred, y = batch
    mask = y[case, 1 + structure] > 0.5
    return [70 * np.asarray(d[case, 0][mask]) for d in (pred, y)]


def test_each_structure_of_each_case(batch):
    metric = DVHMetric("D95", scale_gy=70.0)
    found = metric(*batch)
    assert found.shape == (2, 2) and torch.isnan(found[1, 1])
    gaps = [np.percentile(p, 5) - np.percentile(r, 5) for p, r in (doses(batch, *at) for at in ((0, 0), (0, 1), (1, 0)))]
    assert [found[0, 0], found[0, 1], found[1, 0]] == pytest.approx(gaps, abs=1e-4)
    by_structure = metric.aggregate("mean_batch")
    assert by_structure.tolist() == pytest.approx([(gaps[0] + gaps[2]) / 2, gaps[1]], abs=1e-4)
    assert metric.aggregate().item() == pytest.approx(((gaps[0] + gaps[1]) / 2 + gaps[2]) / 2, abs=1e-4)


def test_quantities(batch):
    predicted, reference, gap, absolute = (
        DVHMetric("V30Gy", "%", quantity=q, scale_gy=70.0)(*batch)[0, 0].item()
        for q in ("predicted", "reference", "gap", "absolute_gap")
    )
    pred, dose = doses(batch, 0, 0)
    assert predicted == pytest.approx(100 * np.mean(pred >= 30)) and reference == pytest.approx(100 * np.mean(dose >= 30))
    assert gap == pytest.approx(predicted - reference, abs=1e-4) and absolute == pytest.approx(abs(gap)) and gap != 0


def test_volumes_in_cc_need_the_spacing(batch):
    pred, y = batch
    expected = np.sum(doses(batch, 0, 0)[0] >= 30) * 0.015
    options = {"metric": "V30Gy", "unit": "cc", "quantity": "predicted", "scale_gy": 70.0}
    assert DVHMetric(spacing_mm=SPACING, **options)(pred, y)[0, 0] == pytest.approx(expected)
    assert DVHMetric(**options)(pred, y, spacing=SPACING)[0, 0] == pytest.approx(expected)
    oriented = [MetaTensor(case, affine=np.diag([-3.0, 2.0, 2.5, 1.0])) for case in y]
    assert DVHMetric(**options)(list(pred), oriented)[0, 0] == pytest.approx(expected)
    with pytest.raises(InputError, match="spacing"):
        DVHMetric(**options)(pred, y)
    hottest = DVHMetric("D0.15cc", quantity="reference", scale_gy=70.0, spacing_mm=SPACING)(pred, y)[0, 0]
    assert hottest == pytest.approx(np.sort(doses(batch, 0, 0)[1])[-10])
    with pytest.raises(InputError, match="spacing"):
        DVHMetric("D0.15cc")(pred, y)


@pytest.mark.parametrize(
    ("y_pred", "y"),
    [((2, 1, 4, 4, 4), (2, 1, 4, 4, 4)), ((2, 1, 4, 4, 4), (2, 2, 4, 4, 5)), ((2, 2, 4, 4, 4), (2, 2, 4, 4, 4)),
     ((2, 1, 4, 4, 4), (3, 2, 4, 4, 4))],
)  # fmt: skip
def test_shapes_that_make_no_sense(y_pred, y):
    with pytest.raises(InputError, match="DVHMetric: shapes"):
        DVHMetric()(torch.zeros(y_pred), torch.zeros(y))


def test_unknown_options():
    with pytest.raises(InputError, match="metric 'V50' in '%'"):
        DVHMetric("V50", "%")
    with pytest.raises(InputError, match="quantity"):
        DVHMetric(quantity="difference")


def test_in_a_configuration_as_an_ignite_handler(batch):
    """With MONAI alone: any evaluator whose output has a dose and a label with masks."""
    parser = ConfigParser(
        {"metric": {"_target_": "monai_vmat.metrics.dvh_metric.DVHMetric", "metric": "D95", "scale_gy": 70.0}}
    )
    handler = IgniteMetricHandler(parser.get_parsed_content("metric"), output_transform=from_engine(["pred", "label"]))
    pred, y = batch
    engine = Engine(lambda engine, case: [{"pred": pred[case], "label": y[case]}])
    handler.attach(engine, "ptv_d95_gap")
    engine.run([0, 1])
    direct = DVHMetric(scale_gy=70.0)
    direct(pred, y)
    assert engine.state.metrics["ptv_d95_gap"] == pytest.approx(direct.aggregate().item(), abs=1e-5)


def test_the_example():
    assert doctest.testmod(module).attempted and not doctest.testmod(module).failed
