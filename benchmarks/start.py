"""How long a training takes to start: seconds from the command to the end of the first step.

  python -m benchmarks.start                 draws faces into a temporary folder; about a minute

The first start draws the images and fills the cache of decoded images; its time is printed apart. The later ones find
the cache full, and the fastest of them counts. The training is the baseline on the demo.
"""
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from support import cli

ROOT = Path(__file__).parent.parent
# Ends the process at the end of the first step, when the device has finished it.
STOPPING = """
import os, runpy, sys
sys.argv = sys.argv[1:]
from training.run import Training
def stop(training, terms):
    sum(terms.values()).item()
    print("first step", flush=True)
    os._exit(0)
Training.end_step = stop
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass
class Args:
    images: int = 4096
    """training images of the demo"""
    image_size: int = 64
    """side of the images (pixels)"""
    repeat: int = 3
    """starts with a full cache, of which the fastest counts"""


def main(args: Args) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--dataset", "demo", "--root", f"{folder}/demo", "--data", f"train={args.images}", "--image-size",
                   str(args.image_size)]
        first = seconds_to_first_step(options, Path(folder))
        best = min(seconds_to_first_step(options, Path(folder)) for _ in range(args.repeat))
    print(f"{args.images} images of {args.image_size} pixels: first step after {best:.2f} s with a full cache, after "
          f"{first:.2f} s where the images are drawn and decoded first")


def seconds_to_first_step(options: list[str], runs: Path, script: str = "train_baseline.py") -> float:
    """Seconds from the start of a training script to the end of its first step, in a process of its own.

    options: of the script. runs: the folder of runs, which also gets the cache. Raises CalledProcessError where the
    script ends before its first step; what it printed is on the screen then.
    """
    command = [sys.executable, "-c", STOPPING, script, *options, "--runs", str(runs), "--fresh"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - began
    if "first step" not in done.stdout:
        print(done.stdout)
        raise subprocess.CalledProcessError(done.returncode, command)
    return seconds


if __name__ == "__main__":
    cli.run(main, Args)
