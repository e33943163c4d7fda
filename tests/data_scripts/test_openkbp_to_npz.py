"""The OpenKBP converter as users start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_vmat.case import read_case
from monai_vmat.protocol import load_protocol

SCRIPT = Path(__file__).resolve().parents[2] / "data_scripts" / "openkbp_to_npz.py"
PROTOCOL = load_protocol("openkbp_head_and_neck")


def write_patient(folder: Path, *leave_out: str) -> None:
    """A smallest complete patient, its one target voxel 10th from anterior, 20th from right and 30th from superior."""
    marker = (10 * 128 + 20) * 128 + 30
    content = {
        "ct": f",data\n{marker},1064.0\n",
        "dose": f",data\n{marker},70.25\n",
        "possible_dose_mask": f",data\n{marker},\n",
        "PTV70": f",data\n{marker},\n",
        "voxel_dimensions": "3.0\n4.0\n5.0\n",
    }
    folder.mkdir(parents=True)
    for name in set(content) - set(leave_out):
        (folder / f"{name}.csv").write_text(content[name])


def convert(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    data = tmp_path / "open-kbp" / "provided-data"
    write_patient(data / "train-pats" / "pt_10")
    write_patient(data / "train-pats" / "pt_2")
    write_patient(data / "validation-pats" / "pt_201", "dose", "ct")
    return tmp_path / "open-kbp"


def test_converts_the_whole_and_names_the_incomplete(checkout, tmp_path):
    done = convert(checkout, tmp_path / "out", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["pt_10.npz", "pt_2.npz"]
    case = read_case(tmp_path / "out" / "pt_10.npz", PROTOCOL)
    assert case.case_id == "pt_10" and case.spacing_mm == (4.0, 3.0, 5.0)
    assert case.ct_hu[20, 10, 97] == 40 and case.dose_gy[20, 10, 97] == pytest.approx(70.25)
    assert case.structures["PTV70"][20, 10, 97]
    counts = {line.split("  ")[0]: line.split()[-1] for line in done.stdout.splitlines() if line[-1:].isdigit()}
    assert counts == {"converted": "2", "already there": "0", "skipped": "1"}
    assert "pt_201 " not in done.stdout and "incomplete: ct.csv, dose.csv not found" in done.stdout
    assert done.stdout.rstrip().endswith(f"next: python data_scripts/make_splits.py {tmp_path / 'out'} --openkbp")


def test_goes_on_where_it_was(checkout, tmp_path):
    out = tmp_path / "out"
    convert(checkout, out, "--workers", 1)
    (out / "pt_2.npz").unlink()
    # what a killed run leaves: never taken for a case
    (out / ".pt_2.npz.k1ll3d.part").write_bytes(b"PK\x03\x04 half a file")
    before = (out / "pt_10.npz").stat().st_mtime_ns
    done = convert(checkout, out, "--workers", 1)
    assert (out / "pt_10.npz").stat().st_mtime_ns == before
    assert read_case(out / "pt_2.npz", PROTOCOL).case_id == "pt_2"
    counts = {line.split("  ")[0]: line.split()[-1] for line in done.stdout.splitlines() if line[-1:].isdigit()}
    assert counts == {"converted": "1", "already there": "1", "skipped": "1"}

    assert convert(checkout, out, "--workers", 1, "--overwrite").returncode == 0
    assert (out / "pt_10.npz").stat().st_mtime_ns > before


@pytest.mark.parametrize("inside", ["provided-data", "provided-data/train-pats"])
def test_any_folder_around_the_patients_will_do(checkout, tmp_path, inside):
    assert convert(checkout / inside, tmp_path / "out", "--workers", 1).returncode == 0
    assert (tmp_path / "out" / "pt_2.npz").is_file()


@pytest.mark.parametrize(("moment", "signum"), [("workers start", signal.SIGINT), ("first case is there", signal.SIGTERM)])
def test_interrupted_run_leaves_whole_files_only(tmp_path, moment, signum):
    folder = tmp_path / "train-pats"
    write_patient(folder / "pt_1")
    for number in range(2, 401):
        (folder / f"pt_{number}").symlink_to(folder / "pt_1")
    out = tmp_path / "out"
    command = [sys.executable, SCRIPT, tmp_path, out, "--workers", "2"]
    # whoever runs the tests in the background of a shell has SIGINT ignored, and so would the command
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    progress = process.stderr.read(4)  # the bar appears when the workers have been started
    deadline = time.monotonic() + 30
    while moment == "first case is there" and not list(out.glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    if signum == signal.SIGINT:
        os.killpg(process.pid, signum)  # as Ctrl-C in a terminal: to the workers, too
    else:
        process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert (
        errors.endswith("interrupted: what is written is whole; start it again to go on\n")
        and "Traceback" not in progress + errors
    )
    files = sorted(out.iterdir())
    assert 0 < len(files) < 400
    assert all(read_case(file, PROTOCOL).case_id == file.stem for file in files[-3:])
    assert {file.suffix for file in files} == {".npz"}


def test_nothing_found(tmp_path):
    done = convert(tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "no OpenKBP patients found" in done.stderr and "Traceback" not in done.stderr


def test_nothing_usable(tmp_path):
    write_patient(tmp_path / "train-pats" / "pt_1", "PTV70")
    done = convert(tmp_path, tmp_path / "out", "--workers", 1)
    assert done.returncode == 2
    assert "PTV70.csv not found" in done.stdout and "none of its patients" in done.stderr


def test_patient_twice(checkout, tmp_path):
    write_patient(checkout / "provided-data" / "test-pats" / "pt_2")
    done = convert(checkout, tmp_path / "out")
    assert done.returncode == 2 and "pt_2 is there twice" in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example():
    done = convert("--help")
    assert done.returncode == 0 and "python data_scripts/openkbp_to_npz.py open-kbp data/openkbp" in done.stdout
