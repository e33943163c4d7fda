"""The export as users start it."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from monai_vmat.case import write_case
from monai_vmat.networks.film_unet import FiLMUNet

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_becomes_a_file(tmp_path, prostate, make_case, monkeypatch, capsys):
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    weights = FiLMUNet(prostate.in_channels, base_channels=8).state_dict()
    torch.save({"network": weights, "epoch": 3}, tmp_path / "mine" / "checkpoints" / "best-epoch=003-val_mae_gy=2.500.pt")
    config = {"protocol_name": prostate.name, "max_epochs": 5, "datalist": "moved away"}
    write_case(make_case(prostate, case_id="p1"), tmp_path / "data" / "p1.npz")
    item = {"case": "p1.npz", "case_id": "p1", "patient": "p1"}
    datalist = {"protocol": prostate.name, "training": [item], "validation": [], "test": []}
    (tmp_path / "data" / "datalist.json").write_text(json.dumps(datalist))
    record = {"config": config, "seed": 7, "git_commit": "abc", "cases": {"training": ["p1"], "validation": []}}
    (tmp_path / "mine" / "training_config.json").write_text(json.dumps(record))

    def export(*options):
        monkeypatch.setattr(sys, "argv", ["export_model.py", str(tmp_path / "mine"), str(tmp_path / "model.pt"), *options])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "data_scripts" / "export_model.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    status, told, error = export("--dtype", "bfloat16", "--dataset_dir", str(tmp_path / "data"))
    assert status == 0, error
    assert "base_channels" in told and "3 to 3" in told and "bfloat16), read again and compared" in told
    before = (tmp_path / "model.pt").read_bytes()
    assert len(before) < 2.2 * sum(tensor.numel() for tensor in weights.values())
    status, _, error = export("--dataset_dir", str(tmp_path / "data"))
    assert status == 2 and "exists already" in error and (tmp_path / "model.pt").read_bytes() == before
