"""``python -m monai_vmat.reports``: tables and figures from the records that runs leave."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_vmat.console import run_command, say, table
from monai_vmat.files import write_text, write_whole
from monai_vmat.reports import compare as comparing

NOTE = (
    "+- is the standard deviation over seeds; intervals are bootstrapped over patients; p by Wilcoxon's signed ranks over test "
    "cases, corrected by Holm; plans of one anatomy are not independent, so p is smaller than it should be. Research only."
)
EXAMPLE = """example:
  python -m monai_vmat.reports compare runs/* --out docs/experiments"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m monai_vmat.reports", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compare = commands.add_parser(
        "compare",
        help="which experiment is better: table and box plots over runs",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of runs; NAME-seed<n> are seeds of NAME")
    compare.add_argument(
        "--predictions", type=Path, default=Path("predictions"), help="where evaluations are (default: %(default)s)"
    )
    compare.add_argument("--split", default="test", help="the split that was evaluated (default: %(default)s)")
    compare.add_argument("--baseline", default="baseline", help="what others are compared with (default: %(default)s)")
    compare.add_argument("--out", type=Path, help="folder for comparison.md, .csv, .html and .png")
    options = parser.parse_args()

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


if __name__ == "__main__":
    run_command(main)
