"""A sweep as users start it: on Ray, killed twice and resumed; and what is told without Ray."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pytest
import torch

from monai_vmat.case import write_case
from monai_vmat.handlers.run_record import read_metrics

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "data_scripts" / "sweep.py"
MAX_EPOCHS = 4


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


@pytest.fixture
def environment(tmp_path):
    """A home and a folder for temporary files of one's own, to see what is left in them."""
    (tmp_path / "home").mkdir()
    temporary = Path("/tmp", f"sweep-{os.getpid()}")  # short: Ray's sockets have paths of at most 107 characters
    temporary.mkdir()
    own = {"HOME": str(tmp_path / "home"), "TMPDIR": str(temporary), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    yield os.environ | own | {"OMP_NUM_THREADS": "1"}
    assert not (tmp_path / "home" / ".ray").exists() and not list(temporary.glob("monai_vmat-*"))
    shutil.rmtree(temporary)


@pytest.fixture
def space(tmp_path, prostate, make_case):
    """The file of a sweep of six trials on four small cases."""
    content = {"protocol": prostate.name, "training": [], "validation": [], "test": []}
    for i, section in enumerate(("training", "training", "validation", "test")):
        write_case(make_case(prostate, seed=i, case_id=f"case_{i}"), tmp_path / "data" / f"case_{i}.npz")
        content[section].append({"case": f"case_{i}.npz", "case_id": f"case_{i}", "patient": f"case_{i}"})
    (tmp_path / "data" / "datalist.json").write_text(json.dumps(content))
    settings = {"base_channels": 8, "patch_size": [16, 16, 16], "patches_per_case": 1, "val_interval": 2, "threads": 1}
    content = {
        "base": ["train.json"],
        "settings": settings | {"dataset_dir": str(tmp_path / "data")},
        "space": {
            "overlay": {"choice": ["grad_loss", "structure_weighted"]},
            "loss#weights#gradient": {"loguniform": [0.01, 1.0]},
            "seed": {"grid": [42, 43]},
        },
        "max_epochs": MAX_EPOCHS,
        "asha": {"grace_period": 2, "reduction_factor": 2},
        "trials": 6,
    }
    (tmp_path / "space.json").write_text(json.dumps(content))
    return tmp_path / "space.json"


def wait_until(holds, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def family(pid: int) -> set[int]:
    """The descendants of a process."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    for _ in range(5):
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


def trainers(pid: int, folder: Path) -> dict[str, int]:
    """Which descendants of a process train the runs that have done an epoch: those that have their logs open."""
    logs = {str(folder / name / "training.log"): name for name in begun(folder)}
    found = {}
    for child in family(pid):
        try:
            opened = {os.readlink(link) for link in Path(f"/proc/{child}/fd").iterdir()}
        except OSError:
            continue
        found |= {logs[path]: child for path in opened & set(logs)}
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that are there and no zombies."""
    found = set()
    for pid in pids:
        try:
            found |= {pid} if "(zombie)" not in Path(f"/proc/{pid}/status").read_text() else set()
        except OSError:
            continue
    return found


def done(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/training_summary.json")}


def begun(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/metrics.csv")} - done(folder)


def last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_and_resumed(space, environment, tmp_path, monkeypatch, capsys):
    """SIGKILL of a training process, then of the sweep: nothing that is done is trained again, nothing begun begins again."""
    pytest.importorskip("ray", reason="the extra 'scale' is not installed")
    out = tmp_path / "runs" / "losses"
    with open(tmp_path / "first.log", "w") as log:
        first = subprocess.Popen(command(space, "--out", out), env=environment, stdout=log, stderr=log, cwd=ROOT)
    try:
        wait_until(lambda: trainers(first.pid, out), first)
        name, worker = trainers(first.pid, out).popitem()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: f"{name}: its process died" in (tmp_path / "first.log").read_text(), first)
        wait_until(lambda: done(out) and trainers(first.pid, out), first)
        left, training = family(first.pid), set(trainers(first.pid, out).values())
    finally:
        first.kill()
        first.wait()
    deadline = time.monotonic() + 30
    while alive(training) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert training and not alive(training)
    for pid in alive(left):  # helpers of Ray, which take two minutes to see that they are of no use
        os.kill(pid, signal.SIGKILL)

    finished, interrupted = done(out), begun(out)
    assert 0 < len(finished) < 6 and interrupted
    before = {name: (out / name / "checkpoints" / "last.pt").read_bytes() for name in finished}
    epochs = {name: last(out / name)["epoch"] for name in interrupted}

    second = subprocess.run(command(space, "--out", out, "--resume"), env=environment, capture_output=True, text=True, cwd=ROOT)
    assert second.returncode == 0, second.stdout + second.stderr
    assert not second.stderr.strip()
    results = json.loads((out / "sweep_results.json").read_text())["trials"]
    names = [result["trial"] for result in results]
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(names) and len(set(names)) == 6
    for result in results:
        rows = read_metrics(out / result["trial"] / "metrics.csv")
        assert [row["epoch"] for row in rows] == list(range(1, result["epochs"] + 1))
        assert result["status"] == ("finished" if result["epochs"] == MAX_EPOCHS else "stopped")
        assert result["best"] == min(row["val/mae_gy"] for row in rows if "val/mae_gy" in row)
    for name in finished:
        assert (out / name / "checkpoints" / "last.pt").read_bytes() == before[name] and f"{name}:" not in second.stdout
    for name in interrupted:
        sessions = json.loads((out / name / "training_config.json").read_text())["sessions"]
        assert sessions[-1]["first_epoch"] == epochs[name] + 1 and f"{name}: goes on" in second.stdout

    compare = [sys.executable, "-m", "monai_vmat.reports", "compare", *(str(out / name) for name in names)]
    told = subprocess.run(compare, capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert ("(stopped early)" in told.stdout) == any(result["status"] == "stopped" for result in results)

    assert run_here(monkeypatch, space, "--out", out, "--resume") == 0
    assert "stopped" in capsys.readouterr().out or not any(result["status"] == "stopped" for result in results)


def run_here(monkeypatch, *arguments: object) -> int:
    """Run the script in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code


def test_dry_run_shows_the_trials_and_trains_nothing(space, tmp_path, monkeypatch, capsys):
    assert run_here(monkeypatch, space, "--dry-run", "--trials", 2, "--out", tmp_path / "out") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["trial", "overlay", "loss#weights#gradient", "seed"]
    assert [line[3] for line in lines[2:]] == ["42", "43"] and lines[2][2] == lines[3][2]
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line(space, monkeypatch, capsys):
    space.write_text(space.read_text().replace('"max_epochs"', '"epochs"'))
    assert run_here(monkeypatch, space, "--dry-run") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {space}: keys missing ['max_epochs']") and told.count("\n") == 1


def test_without_ray_it_is_said_how_to_install_it(space, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run_here(monkeypatch, space, "--out", tmp_path / "out") == 2
    assert ".[scale]" in capsys.readouterr().err and not (tmp_path / "out").exists()
