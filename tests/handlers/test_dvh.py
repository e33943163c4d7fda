"""Dose-volume metrics of an evaluator's cases are those that the case results say."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_vmat.handlers.dose_pairs import DosePairs
from monai_vmat.handlers.dvh import DVHHandler


@pytest.fixture(scope="module")
def cases(prostate, make_case):
    return [make_case(prostate, case_id=f"c{i}", seed=i, spacing=(3.0, 2.0, 2.5)) for i in (0, 1)]


def test_the_gap_is_that_of_the_case_results(prostate, cases, evaluate_cases):
    handler = DVHHandler(DosePairs(prostate, ["PTV70"]), metric="D95")
    state = evaluate_cases(prostate, cases, -1.5, SimpleNamespace(attach=partial(handler.attach, name="gap"))).state
    gaps = [result["dvh"]["PTV70"]["D95"]["gap"] for result in state.case_results]
    assert state.metrics["gap"] == pytest.approx(np.mean(gaps), abs=1e-4) and gaps[0] == pytest.approx(-1.5, abs=1e-3)
    assert state.metric_details["gap"].shape == (2, 1)


def test_volumes_of_several_structures_from_a_configuration(prostate, cases, evaluate_cases):
    """As a user's overlay would have it."""
    pairs = {
        "_target_": "monai_vmat.handlers.dose_pairs.DosePairs",
        "protocol": "@protocol",
        "structures": ["Rectum", "Bladder"],
    }
    v20 = {"_target_": "monai_vmat.handlers.dvh.DVHHandler", "output_transform": pairs, "metric": "V20Gy", "unit": "cc"}
    v20 |= {"quantity": "predicted", "reduction": "mean_batch", "save_details": False}
    handler = ConfigParser({"protocol": prostate, "v20": v20}).get_parsed_content("v20")
    state = evaluate_cases(prostate, cases, -1.5, SimpleNamespace(attach=partial(handler.attach, name="v20"))).state
    volumes = [[np.sum(c.dose_gy[c.structures[s]] - 1.5 >= 20) * 0.015 for s in ("Rectum", "Bladder")] for c in cases]
    assert state.metrics["v20"].tolist() == pytest.approx(np.mean(volumes, 0).tolist()) and np.min(volumes) > 0
    assert not hasattr(state, "metric_details")
