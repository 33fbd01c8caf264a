"""`python` for the commands in the documents: the same commands, small enough for a test (tests/test_docs.py).

  python tests/small_python.py train_baseline.py --dataset demo        or: -m datasets.check --dataset demo

Every data set's recipe is made small (one epoch, 32 pixels, no pretrained weights), so that runs lie where the
documents say, and a few options are added that change no path. Everything else is run by Python as it is.
"""
import os
import runpy
import sys
from pathlib import Path

SMALL_RECIPE = {"epochs": 1, "image_size": 32, "batch_size": 32, "weights": "none"}
NO_PROCESSES = ["--workers", "0"]


def small_options(script: str, options: list[str]) -> list[str]:
    """What is added to a script's command line."""
    if script == "train_openset.py" and "--networks" not in options:
        return [*NO_PROCESSES, "--networks", "1"]
    if script.startswith("train_") or script == "evaluate.py":
        return NO_PROCESSES
    if script == "make_fer_c.py":
        return ["--workers", "1"] if "demo" in options else ["--workers", "1", "--limit", "8"]
    if script == "make_fer_p.py":  # a face has hundreds of frames
        return ["--workers", "1", *([] if "--limit" in options else ["--limit", "4"])]
    return []


def make_recipes_small() -> None:
    from datasets import RECIPES

    for recipe in RECIPES.values():
        recipe.update(SMALL_RECIPE)


def main(words: list[str]) -> None:
    if words[:1] == ["-m"] and words[1].startswith("datasets."):
        sys.path.insert(0, os.getcwd())
        make_recipes_small()
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[:1] and words[0].endswith(".py"):
        script = Path(words[0])
        sys.path[0] = str(script.resolve().parent)
        sys.path.insert(1, os.getcwd())
        make_recipes_small()
        sys.argv = [*words, *small_options(script.name, words)]
        runpy.run_path(str(script.absolute()), run_name="__main__")
    else:
        os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main(sys.argv[1:])
