"""``python -m monai_vmat.reports``: tables, figures and pages from the records that runs leave."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_vmat.console import run_command, say, table
from monai_vmat.errors import InputError
from monai_vmat.files import write_text, write_whole
from monai_vmat.reports import compare as comparing
from monai_vmat.reports.verdict import verdicts, what_terms_weighed, what_was_run

CASES_TO_LOOK_AT = 6
NOTE = (
    "+- is the standard deviation over seeds; 95 % intervals are bootstrapped over patients and seeds, not corrected for their "
    "number; p by Wilcoxon's signed ranks of the cases' body MAE, corrected by Holm; plans of one anatomy are not independent, "
    "so p is smaller than it should be. Research only."
)
EXAMPLE = """example:
  python -m monai_vmat.reports compare runs/* --out comparison"""
EVALUATION_EXAMPLE = """written to the folder of --out:
  report.html    one page that works offline: summary, goals, all cases, and for some cases slices in three planes and DVH
  figures/       PNG of 300 dpi, and PDF: case_boxes, training_curves and loss_components (where the run is found),
                 model_comparison (where other runs were evaluated on the same cases), and of one case dose_slices,
                 gamma_map, dvh and dose_profile; where standard deviations were predicted, calibration, and of the case
                 uncertainty
  calibration.json   does the error grow with the predicted standard deviation? (where predicted)

example:
  python -m monai_vmat.reports evaluation predictions/demo_test"""
RESULTS_EXAMPLE = """example:
  python -m monai_vmat.reports results predictions/prostate_test predictions/neck_validation --pictures 2 \\
      --command "make demo" """


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m monai_vmat.reports", description=__doc__)
    commands = parser.add_subparsers(required=True)
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("--runs", type=Path, metavar="DIR", help="where runs are (default: 'runs' beside the predictions)")
    places.add_argument(
        "--dataset_dir", type=Path, metavar="DIR", help="folder of the datalist (default: what the run recorded)"
    )

    compare = commands.add_parser(
        "compare",
        help="which experiment is better: table and box plots over runs",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.set_defaults(action=compare_runs)
    compare.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of runs; NAME-seed<n> are seeds of NAME")
    compare.add_argument(
        "--predictions", type=Path, default=Path("predictions"), help="where evaluations are (default: %(default)s)"
    )
    compare.add_argument("--split", default="test", help="the split that was evaluated (default: %(default)s)")
    compare.add_argument("--baseline", default="baseline", help="what others are compared with (default: %(default)s)")
    compare.add_argument("--out", metavar="STEM", type=Path, help="writes STEM.md, .csv, .html and .png")
    compare.add_argument("--command", metavar="TEXT", help="what made the runs, to be named in STEM.md")

    report = commands.add_parser(
        "evaluation",
        help="what a model predicts, and how well: a page and figures for papers",
        epilog=EVALUATION_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[places],
    )
    report.set_defaults(action=report_evaluation)
    report.add_argument("folder", metavar="PREDICTIONS", type=Path, help="folder that an evaluation wrote")
    report.add_argument(
        "--cases",
        type=int,
        default=CASES_TO_LOOK_AT,
        metavar="N",
        help="cases to look at in the page, the worst ones and the best; each takes some 0.6 MB (default: %(default)s)",
    )
    report.add_argument("--case", metavar="ID", help="the case in the figures (default: the median by MAE inside the body)")
    report.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the prediction folder)")

    results = commands.add_parser(
        "results",
        help="what models reach: scores with intervals, errors by structure, training, worst cases, as one document",
        epilog=RESULTS_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[places],
    )
    results.set_defaults(action=report_results)
    results.add_argument("folders", metavar="PREDICTIONS", nargs="+", type=Path, help="folders that evaluations wrote")
    results.add_argument("--out", type=Path, metavar="FILE.md", default=Path("docs/results.md"), help="(default: %(default)s)")
    results.add_argument("--pictures", type=int, default=0, metavar="N", help="draw the N worst cases of each (default: none)")
    results.add_argument(
        "--pictures_of", metavar="EXPERIMENT", action="append", default=[], help="draw only its cases; may be given again"
    )
    results.add_argument(
        "--card", type=Path, metavar="FILE.md", help="a model card that gets the results, too (bundles/dose/docs/README.md)"
    )
    results.add_argument(
        "--command", metavar="TEXT", action="append", default=[], help="a command that repeats the figures; may be given again"
    )
    options = parser.parse_args()
    return options.action(options)


def compare_runs(options: argparse.Namespace) -> int:
    runs = [comparing.read_run(folder, options.predictions, options.split) for folder in options.runs]
    comparisons = comparing.compare(runs, options.baseline)
    found = comparing.comparison_table(comparisons, options.baseline)
    said = verdicts(comparisons, options.baseline)
    say(table(*found))
    say()
    for sentence in said:
        say(f"* {sentence}")
    say(f"\n{NOTE}")
    if options.out:
        picture = options.out.with_name(f"{options.out.name}.png")
        text = [
            "# Experiments compared",
            "Generated by `python -m monai_vmat.reports compare` from the records of the runs; nothing here was typed.",
            *([f"Made by `{options.command}`."] if options.command else []),
            what_was_run(runs, options.split),
            comparing.markdown(found).rstrip(),
            f"![body MAE of every test case]({picture.name})",
            "\n".join(f"* {sentence}" for sentence in said),
            NOTE,
            "What each term added to the training loss in the last epoch:",
            "\n".join(f"* {line}" for line in what_terms_weighed(comparisons)),
        ]
        write_text(picture.with_suffix(".md"), "\n\n".join(part for part in text if part) + "\n")
        write_text(picture.with_suffix(".csv"), comparing.comma_separated(found))
        write_text(picture.with_suffix(".html"), comparing.html(found, picture.name, said, NOTE))
        with write_whole(picture) as temporary:
            comparing.box_plots(comparisons).savefig(temporary, dpi=120, format="png")
        say(f"\nwritten: {picture.with_suffix('.md')}, .csv, .html, .png")
    return 0


def report_results(options: argparse.Namespace) -> int:
    from monai_vmat.reports.results import write_results  # here, as below

    written = write_results(
        options.folders,
        options.out,
        runs=options.runs or runs_beside(options.folders[0]),
        dataset_dir=options.dataset_dir,
        commands=options.command,
        pictures=options.pictures,
        pictures_of=options.pictures_of,
        card=options.card,
    )
    say("written: " + ", ".join(map(str, written)))
    return 0


def report_evaluation(options: argparse.Namespace) -> int:
    if options.cases < 1:
        raise InputError(
            "--cases", f"a number from 1 was expected, got {options.cases}", f"Leave it out for {CASES_TO_LOOK_AT}"
        )
    from monai_vmat.reports.evaluation_report import write_report  # here: to compare experiments needs no torch

    written = write_report(
        options.folder,
        options.out or options.folder,
        runs=options.runs or runs_beside(options.folder),
        dataset_dir=options.dataset_dir,
        cases=options.cases,
        case=options.case,
    )
    say("\nwritten:")
    for path in written:
        say(f"  {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0


def runs_beside(predictions: Path) -> Path:
    return predictions.absolute().parent.parent / "runs"


if __name__ == "__main__":
    run_command(main)
