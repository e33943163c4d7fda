"""MONAI's metric handlers on this bundle's outputs find what the case results say."""

import functools

import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_vmat.errors import InputError
from monai_vmat.handlers.dose_pairs import DosePairs
from monai_vmat.handlers.dvh import DVHHandler
from monai_vmat.handlers.gamma3d import Gamma3DHandler


class Named:
    """A metric handler that knows its name."""

    def __init__(self, name, handler):
        self.attach = functools.partial(handler.attach, name=name)


def configured(protocol):
    """As a user's overlay would have them."""
    parser = ConfigParser(
        {
            "protocol": protocol,
            "gamma": {
                "_target_": "monai_vmat.handlers.gamma3d.Gamma3DHandler",
                "output_transform": {"_target_": "monai_vmat.handlers.dose_pairs.DosePairs", "protocol": "@protocol"},
                "dose_percent": 2,
                "distance_mm": 2,
            },
            "v20": {
                "_target_": "monai_vmat.handlers.dvh.DVHHandler",
                "output_transform": {
                    "_target_": "monai_vmat.handlers.dose_pairs.DosePairs",
                    "protocol": "@protocol",
                    "structures": ["Rectum", "Bladder"],
                },
                "metric": "V20Gy",
                "unit": "cc",
                "quantity": "predicted",
                "reduction": "mean_batch",
            },
        }
    )
    return parser.get_parsed_content("gamma"), parser.get_parsed_content("v20")


def test_handlers_agree_with_the_case_results(prostate, make_case, evaluate_cases):
    cases = [make_case(prostate, case_id=f"c{i}", seed=i, spacing=(3.0, 2.0, 2.5)) for i in (0, 1)]
    gap = DVHHandler(DosePairs(prostate, ["PTV70"]), metric="D95")
    gamma, v20 = configured(prostate)
    named = [Named("gap", gap), Named("gamma", gamma), Named("v20", v20)]
    state = evaluate_cases(prostate, cases, -1.5, *named).state
    results = state.case_results
    assert state.metrics["gap"] == pytest.approx(np.mean([r["dvh"]["PTV70"]["D95"]["gap"] for r in results]), abs=1e-4)
    assert state.metric_details["gap"].shape == (2, 1)
    expected = [r["gamma"]["other_criteria"]["2 %/2 mm"] for r in results]
    assert state.metric_details["gamma"][:, 0].tolist() == pytest.approx(expected) and min(expected) < 100
    assert state.metrics["gamma"] == pytest.approx(np.mean(expected))
    volumes = [[np.sum(c.dose_gy[c.structures[s]] - 1.5 >= 20) * 0.015 for s in ("Rectum", "Bladder")] for c in cases]
    assert state.metrics["v20"].tolist() == pytest.approx(np.mean(volumes, 0).tolist()) and np.min(volumes) > 0


def test_unknown_structures(prostate):
    assert Gamma3DHandler(DosePairs(prostate, ["Body"]))
    with pytest.raises(InputError, match="structure 'PTV'"):
        DosePairs(prostate, ["PTV"])
