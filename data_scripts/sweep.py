#!/usr/bin/env python3
"""Train the bundle with many overlays, weights and seeds, and stop early what falls behind (Ray Tune, ASHA)."""

from __future__ import annotations

import argparse
import importlib.util
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError
from monai_vmat.paths import find_bundle, project_root
from monai_vmat.sweeps import results
from monai_vmat.sweeps.environment import prepare_environment
from monai_vmat.sweeps.job import make_jobs
from monai_vmat.sweeps.plan import keep_plan, only_session
from monai_vmat.sweeps.space import read_space

EXAMPLE = """examples, started in the project's root (pip install -e '.[scale]'):
  python data_scripts/sweep.py bundles/dose/configs/sweeps/losses.json --dry-run
  python data_scripts/sweep.py bundles/dose/configs/sweeps/losses.json
  python data_scripts/sweep.py bundles/dose/configs/sweeps/losses.json --resume --trials 18
  python -m monai_vmat.reports compare runs/losses/*/ --predictions predictions/losses

What a space file has is told at the head of monai_vmat/sweeps/space.py. Each trial is an ordinary run in FOLDER/TRIAL, with
its log in training.log; a trial that was stopped early says so in its training_summary.json. To evaluate one:
--experiment losses/TRIAL. FOLDER/sweep_results.json has settings, epochs, best metric and status of every trial.

After Ctrl-C, a crash or a power cut, --resume goes on: what is done stays, what was interrupted loses at most its epoch, ASHA
remembers, and the trials are the same ones. More --trials than before may be asked for. Trials that failed are tried again.

On a cluster: 'ray start' on every machine (docs.ray.io), then add --address auto on one of them. This project's folder, the
data and FOLDER have to be at the same paths on all (a shared file system), and monai_vmat installed; paths in the space file
are absolute or begin with '$@project_root + '.

Exit status: 0 when all trials are done, 1 when some failed (their errors are told), 2 for bad input, 130/143 after
Ctrl-C/SIGTERM."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", metavar="SPACE.json", type=Path, help="what to try")
    parser.add_argument("--trials", type=int, metavar="N", help="number of trials (default: what SPACE.json says)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the runs (default: runs/SPACE)")
    parser.add_argument("--resume", action="store_true", help="go on with the sweep in FOLDER")
    parser.add_argument("--address", help="of a Ray cluster, 'auto' for this machine's (default: start Ray here for the sweep)")
    parser.add_argument("--dry-run", action="store_true", help="check SPACE.json and show the trials")
    options = parser.parse_args()

    space = read_space(options.space, options.trials)
    bundle = find_bundle()
    out = (options.out or Path(project_root(bundle), "runs", options.space.stem)).resolve()
    jobs = make_jobs(space, bundle, out)
    if options.dry_run:
        keys = list(space.content["space"])
        say(table(("trial", *keys), [(trial.name, *(str(trial.settings[key]) for key in keys)) for trial in space.trials]))
        return 0
    if importlib.util.find_spec("ray") is None:
        raise InputError("sweep", "Ray is not installed", "Install it with pip install -c constraints.txt -e '.[scale]'")

    prepare_environment(local=options.address is None)
    from monai_vmat.sweeps.engine import run_trials  # here: Ray reads its settings when it is imported

    def changed(what: str, errors: Mapping[str, str]) -> None:
        found = results.trial_results(space, out, errors)
        results.write_results(space, out, found)
        counts = Counter(result["status"] for result in found)
        done = sum(counts[status] for status in (results.FINISHED, results.STOPPED, results.FAILED))
        say(f"[{done}/{len(found)}] {what}")

    with only_session(out) as temporary:
        keep_plan(space, out, options.resume)
        errors = run_trials(space, jobs, address=options.address, temporary=temporary, changed=changed)
        found = results.trial_results(space, out, errors)
        results.write_results(space, out, found)
    say("\n" + table(*results.results_table(found, space.content["metric"], space.content["mode"])))
    say(f"\nwritten: {out / results.FILE_NAME}")
    return 1 if errors else 0


if __name__ == "__main__":
    run_command(main)
