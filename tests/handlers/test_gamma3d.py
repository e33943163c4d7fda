"""The gamma pass rate of an evaluator's cases is that which the case results say."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_vmat.handlers.dose_pairs import DosePairs
from monai_vmat.handlers.gamma3d import Gamma3DHandler


def test_rates_are_those_of_the_case_results(prostate, make_case, evaluate_cases):
    """As a user's overlay would have it."""
    pairs = {"_target_": "monai_vmat.handlers.dose_pairs.DosePairs", "protocol": "@protocol"}
    gamma = {"_target_": "monai_vmat.handlers.gamma3d.Gamma3DHandler", "output_transform": pairs}
    gamma |= {"dose_percent": 2, "distance_mm": 2}
    handler = ConfigParser({"protocol": prostate, "gamma": gamma}).get_parsed_content("gamma")
    cases = [make_case(prostate, case_id=f"c{i}", seed=i, spacing=(3.0, 2.0, 2.5)) for i in (0, 1)]
    state = evaluate_cases(prostate, cases, -1.5, SimpleNamespace(attach=partial(handler.attach, name="gamma"))).state
    expected = [result["gamma"]["other_criteria"]["2 %/2 mm"] for result in state.case_results]
    assert state.metric_details["gamma"][:, 0].tolist() == pytest.approx(expected) and min(expected) < 100
    assert state.metrics["gamma"] == pytest.approx(np.mean(expected))


def test_details_only_on_request(prostate, make_case, evaluate_cases):
    handler = Gamma3DHandler(DosePairs(prostate), save_details=False)
    named = SimpleNamespace(attach=partial(handler.attach, name="gamma"))
    state = evaluate_cases(prostate, [make_case(prostate)], 0.0, named).state
    assert state.metrics["gamma"] == 100 and not hasattr(state, "metric_details")
