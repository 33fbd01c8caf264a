"""Is this data folder usable? Shows its layout, the image counts beside the official ones, what is left out and why,
unreadable pictures, and pictures that occur twice.

  python -m datasets.check --dataset ferplus --root DIR

Exit code 0: usable; 2: not usable. --json prints the report for programs.
"""
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__" and not __package__:  # as a script: the path starts at the project
    sys.path[0] = os.path.dirname(sys.path[0])

from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

import tyro

from support import cli
from support.errors import UserError


@dataclass
class Args:
    """The options of the command."""

    dataset: str
    """name of the data set"""
    root: Path | None = None
    """folder of the data set (default: data/<dataset>, or $FERC_DATA/<dataset>)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """an option of the data set as key=value; may be given several times"""
    json: bool = False
    """print the report as JSON"""


def main(args: Args) -> int:
    """Print the report. Returns the exit code: 0 usable, 2 not usable."""
    # Imported here, since it takes a second and `--help` needs none of it.
    from datasets.inspection import inspect, report_lines

    try:
        report = inspect(args.dataset, args.root, args.data)
    except UserError as error:
        if not args.json:
            raise
        report = {"dataset": args.dataset, "root": str(args.root or ""), "splits": {}, "problems": [str(error)],
                  "official": {}, "duplicates": {}, "usable": False}
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(report_lines(report, next_step(args, report))))
    return 0 if report["usable"] else 2


def next_step(args: Args, report: dict[str, Any]) -> str:
    """What to do when a folder is not usable, with the command that looks again."""
    from datasets.split import printable  # with pandas

    command = ["python", "-m", "datasets.check", "--dataset", args.dataset, "--root", report["root"]]
    for option in args.data:
        command += ["--data", option]
    advice = "Put this right, then look again: " + printable(shlex.join(command))
    if any(facts["unreadable"] for facts in report["splits"].values()):
        advice = "Replace the unreadable pictures (make_fer_c.py --skip-bad leaves them out of a built set). " + advice
    return advice


if __name__ == "__main__":
    cli.run(main, Args)
