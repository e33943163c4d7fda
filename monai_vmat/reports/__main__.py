"""``python -m monai_vmat.reports``: tables, figures and pages from the records that runs leave."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_vmat.console import run_command, say, table
from monai_vmat.files import write_text, write_whole
from monai_vmat.reports import compare as comparing
from monai_vmat.reports.evaluation_report import CASES_TO_LOOK_AT, write_report

NOTE = (
    "+- is the standard deviation over seeds; intervals are bootstrapped over patients; p by Wilcoxon's signed ranks over test "
    "cases, corrected by Holm; plans of one anatomy are not independent, so p is smaller than it should be. Research only."
)
EXAMPLE = """example:
  python -m monai_vmat.reports compare runs/* --out docs/experiments"""
EVALUATION_EXAMPLE = """written to the folder of --out:
  report.html    one page that works offline: summary, goals, all cases, and for some cases slices in three planes and DVH
  figures/       PNG of 300 dpi, and PDF: case_boxes, training_curves and loss_components (where the run is found),
                 model_comparison (where other runs were evaluated on the same cases), and of one case dose_slices,
                 gamma_map, dvh and dose_profile

example:
  python -m monai_vmat.reports evaluation predictions/demo_test"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m monai_vmat.reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser(
        "compare",
        help="which experiment is better: table and box plots over runs",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.set_defaults(command=compare_runs)
    compare.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of runs; NAME-seed<n> are seeds of NAME")
    compare.add_argument(
        "--predictions", type=Path, default=Path("predictions"), help="where evaluations are (default: %(default)s)"
    )
    compare.add_argument("--split", default="test", help="the split that was evaluated (default: %(default)s)")
    compare.add_argument("--baseline", default="baseline", help="what others are compared with (default: %(default)s)")
    compare.add_argument("--out", type=Path, help="folder for comparison.md, .csv, .html and .png")

    report = commands.add_parser(
        "evaluation",
        help="what a model predicts, and how well: a page and figures for papers",
        epilog=EVALUATION_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.set_defaults(command=report_evaluation)
    report.add_argument("folder", metavar="PREDICTIONS", type=Path, help="folder that an evaluation wrote")
    report.add_argument("--runs", type=Path, metavar="DIR", help="where runs are (default: 'runs' beside the predictions)")
    report.add_argument(
        "--dataset_dir", type=Path, metavar="DIR", help="folder of the datalist (default: what the run recorded)"
    )
    report.add_argument(
        "--cases",
        type=int,
        default=CASES_TO_LOOK_AT,
        metavar="N",
        help="cases to look at in the page, the worst ones and the best; each takes some 0.6 MB (default: %(default)s)",
    )
    report.add_argument("--case", metavar="ID", help="the case in the figures (default: the median by MAE inside the body)")
    report.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the prediction folder)")
    options = parser.parse_args()
    return options.command(options)


def compare_runs(options: argparse.Namespace) -> int:
    runs = [comparing.read_run(folder, options.predictions, options.split) for folder in options.runs]
    comparisons = comparing.compare(runs, options.baseline)
    found = comparing.comparison_table(comparisons, options.baseline)
    say(table(*found))
    say(f"\n{NOTE}")
    if options.out:
        write_text(options.out / "comparison.md", f"{comparing.markdown(found)}\n{NOTE}\n\n![box plots](comparison.png)\n")
        write_text(options.out / "comparison.csv", comparing.comma_separated(found))
        write_text(options.out / "comparison.html", comparing.html(found, "comparison.png", NOTE))
        with write_whole(options.out / "comparison.png") as temporary:
            comparing.box_plots(comparisons).savefig(temporary, dpi=120, format="png")
        say(f"\nwritten: {options.out / 'comparison.html'}")
    return 0


def report_evaluation(options: argparse.Namespace) -> int:
    runs = options.runs or options.folder.absolute().parent.parent / "runs"
    written = write_report(
        options.folder,
        options.out or options.folder,
        runs=runs,
        dataset_dir=options.dataset_dir,
        cases=options.cases,
        case=options.case,
    )
    say("\nwritten:")
    for path in written:
        say(f"  {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    run_command(main)
