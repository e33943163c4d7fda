import subprocess
import sys

import numpy as np
import pytest

from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError


def test_say(capsys):
    say("one")
    say()
    assert capsys.readouterr().out == "one\n\n"


def test_table():
    rows = [("PTV70", 70, 1.005, None), ("Bladder", -1, np.float32(12.3456), True)]
    assert table(("", "n", "Gy", "met"), rows) == (
        "          n     Gy   met\n"
        "-------  --  -----  ----\n"
        "PTV70    70   1.00     -\n"
        "Bladder  -1  12.35  True"
    )  # fmt: skip
    assert table(("a", "bcd"), []) == "a  bcd\n-  ---"


def bad_input():
    raise InputError("a.npz", "array 'ct' is missing", "Convert again")


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("main", "status", "text"),
    [
        (lambda: None, None, ""),
        (lambda: 3, 3, ""),
        (bad_input, 2, "error: a.npz: array 'ct' is missing. Convert again\n"),
        (interrupt, 130, "interrupted\n"),
    ],
)
def test_exit_status_and_standard_error(capsys, main, status, text):
    with pytest.raises(SystemExit) as exit:
        run_command(main)
    assert exit.value.code == status
    assert capsys.readouterr().err == text


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("error", ["InputError('a.npz', 'is bad', 'Mend it')", "KeyError('bug')"])
def test_plain_errors(error, wrapped):
    program = (
        "from monai_vmat.console import plain_errors\n"
        "from monai_vmat.errors import InputError\n"
        "plain_errors()\n"
        f"try:\n    raise {error}\n"
        f"except Exception as error:\n    raise {'RuntimeError() from error' if wrapped else ''}\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    if "InputError" in error:
        assert run.stderr == "error: a.npz: is bad. Mend it\n"
    else:
        assert "Traceback" in run.stderr and "KeyError" in run.stderr
