"""What a comparison says in plain words, and what was compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from monai_vmat.reports.compare import Comparison, Run

_SEED_WARNING = (
    "One training each: how much a training differs from the next with another seed is not known here, so that a small "
    "difference may be chance even where its interval leaves out zero."
)


def verdicts(comparisons: Sequence[Comparison], baseline: str) -> list[str]:
    """A sentence an experiment: which figures are better or worse than the baseline's, which show no clear difference.

    A figure is called better or worse where the 95 % bootstrap interval of its difference leaves out zero.
    """
    said = []
    for comparison in comparisons:
        if not comparison.differences:
            continue
        found: dict[str, list[str]] = {"better": [], "worse": [], "no clear difference": []}
        for metric, (mean, low, high) in comparison.differences.items():
            label, unit, good = _figure(metric)
            if label is None:
                continue
            clear = low > 0 or high < 0
            word = ("better" if mean * good > 0 else "worse") if clear else "no clear difference"
            found[word].append(f"{label} {mean:+.2f} {unit} ({low:+.2f} to {high:+.2f})")
        parts = [f"{word}: {', '.join(figures)}" for word, figures in found.items() if figures]
        said.append(f"{comparison.experiment} against {baseline}: {'; '.join(parts)}.")
    if said and any(len(c.runs) < 2 for c in comparisons):
        said.append(_SEED_WARNING)
    return said


def _figure(metric: str) -> tuple[str | None, str, int]:
    """What a metric is called, its unit, and whether more of it is good (1) or bad (-1)."""
    if metric.endswith("_D95_abs_gap_gy"):
        return f"|D95 gap| of {metric.removesuffix('_D95_abs_gap_gy')}", "Gy", -1
    known = {
        "body_mae_gy": ("body MAE", "Gy", -1),
        "gamma_pass_rate": ("gamma", "points", 1),
        "organs_Dmean_abs_gap_gy": ("organs' |Dmean gap|", "Gy", -1),
    }
    return known.get(metric, (None, "", 0))


def what_was_run(runs: Sequence[Run], split: str) -> str:
    """Data, settings and machine of the runs, as Markdown; where runs differ, all their values."""
    evaluated = next((run for run in runs if run.patients), None)
    record = runs[0].record
    lines = [f"{len(record['cases']['training'])} training and {len(record['cases']['validation'])} validation cases"]
    if evaluated:
        patients = len(set(evaluated.patients.values()))
        lines[0] += f"; evaluated on the {split} split: {len(evaluated.patients)} plans of {patients} patients"
    settings = ("max_epochs", "base_channels", "patch_size", "learning_rate")
    lines.append(", ".join(f"{name} {_all(run.record['config'].get(name) for run in runs)}" for name in settings))
    lines.append(f"seeds {_all(run.record['seed'] for run in runs)}")
    lines.append(f"commit {_all((run.record['git_commit'] or 'unknown')[:10] for run in runs)}")
    hardware, versions = ([run.record[kind] for run in runs] for kind in ("hardware", "versions"))
    lines.append(
        f"machine: {_all(h['gpu'] or h['cpu'] for h in hardware)}, {_all(h['torch_threads'] for h in hardware)} threads; "
        f"torch {_all(v['torch'] for v in versions)}, MONAI {_all(v['monai'] for v in versions)}"
    )
    return "\n".join(f"* {line}" for line in lines)


def what_terms_weighed(comparisons: Sequence[Comparison]) -> list[str]:
    """What each term added to the loss in the last training epoch, mean over seeds: which one the network really followed."""
    lines = []
    for comparison in comparisons:
        names = [n for n in comparison.runs[0].last_epoch if n.startswith("train/") and n.endswith("_weighted")]
        values = {n: sum(run.last_epoch.get(n, 0.0) for run in comparison.runs) / len(comparison.runs) for n in names}
        if values:
            told = ", ".join(f"{n[len('train/') : -len('_weighted')]} {value:.2g}" for n, value in values.items())
            lines.append(f"{comparison.experiment}: {told}")
    return lines


def _all(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))
