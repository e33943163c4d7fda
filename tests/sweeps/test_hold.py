"""One process at a time holds a file, until it ends."""

import subprocess
import sys

from monai_vmat.sweeps.hold import hold

CODE = "import sys; from monai_vmat.sweeps.hold import hold; file = open(sys.argv[1], 'a'); print(hold(file), flush=True)"


def test_a_file_is_held_until_the_process_ends(tmp_path):
    call = [sys.executable, "-c", f"{CODE}; sys.stdin.read()", tmp_path / "lock"]
    with (
        subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        open(tmp_path / "lock", "a") as file,
        open(tmp_path / "lock", "a") as again,
    ):
        assert other.stdout.readline() == "True\n"
        assert not hold(file) and not hold(file, wait_s=0.6)
        other.kill()
        assert hold(file, wait_s=30) and not hold(again)
