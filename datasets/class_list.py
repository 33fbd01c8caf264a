"""The names of the classes of a data set, one a line, as `train_openset.py --open` takes them.

run.sh asks for them to make an open-set run for every class. Files of the data set are read only where nothing else
knows its classes (`folders`).

  python -m datasets.class_list --dataset rafdb --data classes=7
"""
from support import start

if __name__ == "__main__":  # before the imports that may be interrupted, or fail outside the environment
    start.explain_failed_imports()

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from datasets import DATASETS, class_names, default_root, parse_options
from datasets.open_classes import class_words
from support import cli
from support.cli import OneOf


@dataclass
class Args:
    """The options of the command."""

    dataset: Annotated[str, OneOf(DATASETS)]
    """name of the data set"""
    root: Path | None = None
    """folder of the data set ($FERC_DATA/<dataset> or data/<dataset> if not given)"""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """an option of the data set, written key=value; may be given several times"""


def main(args: Args) -> None:
    cli.check_values(args)
    root = args.root or default_root(args.dataset)
    print("\n".join(class_words(class_names(args.dataset, root, **parse_options(args.data)))))


if __name__ == "__main__":
    cli.run(main, Args)
