"""How fast make_fer_c.py builds, compared with a lower bound: the same bytes encoded, hashed and written,
nothing corrupted.

  python benchmarks/build.py                     all parts: images/s with 1 and 2 workers, PNG and JPEG; memory; growth
  python benchmarks/build.py --only bound        one part: images/s, the lower bound and memory
  python benchmarks/build.py --only growth       one part: how time and disk grow with the number of images
  python benchmarks/build.py --only encoders     one part: file formats, their time, bytes and change of the pixels

Drawn faces, 224 pixels, default constants. A build is the whole command in processes of its own. Two builds of
different size are timed, so that their difference leaves the start-up out. The ratio is that of CPU time, which other
processes disturb less than wall time. On a busy machine, or with few images, neither means much.
"""
import hashlib
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from building import forms as building_forms  # noqa: E402
from building.forms import make_form  # noqa: E402
from corruptions import CELLS, constants  # noqa: E402
from datasets import load_split  # noqa: E402
from datasets.images import read_image  # noqa: E402
from support import cli  # noqa: E402

SIZE, QUALITY = 224, 95
FEW = 8  # source images of the smaller of two builds; the lower bound uses their forms
MADE = {"seed": 0, "constants": constants("fer-c", SIZE)}
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Args:
    only: Literal["all", "bound", "growth", "encoders"] = "all"
    """which part of the benchmark to run"""
    images: int = 200
    """number of source images of a build"""
    repeat: int = 1
    """number of times that a build and its lower bound are measured, in turn; the best of each counts"""
    formats: tuple[Literal["png", "jpg"], ...] = ("png", "jpg")
    """file formats of the part `bound`"""
    growth: tuple[int, ...] = (50, 100, 200, 400)
    """numbers of source images of the builds that show how the cost grows"""
    scratch: Path | None = None
    """folder to write to (7 MB for each source image; default: a temporary folder)"""


def main(args: Args) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ferc-build-", dir=args.scratch))
    try:
        # one process compiles the loops and draws the faces before anything is measured
        build(folder, 1, 1, "png")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
        if args.only in ("all", "bound"):
            show_bound(folder, args)
        if args.only in ("all", "growth"):
            show_growth(folder, args.growth)
        if args.only in ("all", "encoders"):
            show_encoders(folder)
    finally:
        shutil.rmtree(folder)


def show_bound(folder: Path, args: Args) -> None:
    """Print speed and memory of builds, and the lower bound."""
    print("corrupted images a second, and ms of CPU time an image; memory: the largest worker process and the builder")
    forms = forms_of(folder, FEW)
    for kind in args.formats:
        for workers in (1, 2):
            small: list[Build] = []
            large: list[Build] = []
            bounds: list[tuple[float, float]] = []
            for _ in range(args.repeat):
                small.append(build(folder, FEW, workers, kind))
                large.append(build(folder, args.images, workers, kind))
                bounds.append(lower_bound(folder, forms, max(workers, args.images // FEW), workers, kind))
            more_images = (args.images - FEW) * len(CELLS)
            small_wall = min(measured.wall for measured in small)
            wall = (min(measured.wall for measured in large) - small_wall) / more_images
            cpu = (min(measured.cpu for measured in large) - min(measured.cpu for measured in small)) / more_images
            bound_wall, bound_cpu = np.min(bounds, 0)
            worker = max(measured.worker_memory for measured in small + large)
            builder = max(measured.builder_memory for measured in small + large)
            print(f"  {kind}, {workers} workers: {1 / wall:4.0f}/s {1e3 * cpu:5.2f} ms   bound {1 / bound_wall:5.0f}/s "
                  f"{1e3 * bound_cpu:5.2f} ms   ratio {bound_cpu / cpu:.2f} (wall {bound_wall / wall:.2f})   start-up "
                  f"{small_wall - FEW * len(CELLS) * wall:4.1f} s   memory {worker:.0f} and {builder:.0f} MiB",
                  flush=True)


def show_growth(folder: Path, counts: tuple[int, ...]) -> None:
    """Print the cost by number of source images, with all cores and PNG: a straight line through the CPU times, and
    what it gives for a million forms."""
    workers = os.cpu_count()
    print(f"cost by source images, {workers} workers, png")
    rows = []
    for count in counts:
        measured = build(folder, count, workers, "png")
        rows.append((count, measured.wall, measured.cpu, measured.size))
        print(f"  {count:5} images: {measured.wall:6.1f} s, CPU {measured.cpu:6.1f} s, {measured.size / 1e6:6.0f} MB, "
              f"memory {measured.worker_memory:.0f} and {measured.builder_memory:.0f} MiB", flush=True)
    count, wall, cpu, size = np.array(rows).T
    slope, start = np.polyfit(count, cpu, 1)
    off = np.abs(cpu - start - slope * count).max() / cpu.max()
    million = 1e6 / len(CELLS)
    print(f"  CPU = {start:.1f} s + {1e3 * slope:.0f} ms a source image, off the line by at most {100 * off:.1f} % of "
          f"the last; a million forms: {million * slope / 3600:.1f} CPU hours, {million * slope / 60 / workers:.0f} "
          f"minutes on {workers} cores, {million * size[-1] / count[-1] / 1e9:.0f} GB")


@dataclass
class Build:
    """What a build cost."""

    wall: float
    """seconds by the clock"""
    cpu: float
    """seconds of CPU time of all processes"""
    worker_memory: float
    """memory of the largest worker process (MiB)"""
    builder_memory: float
    """memory of the process that starts them (MiB)"""
    size: int
    """bytes of the set"""


def build(folder: Path, count: int, workers: int, kind: str) -> Build:
    """Build a set of `count` source images from nothing."""
    out = folder / "Demo-C"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "make_fer_c.py", "--dataset", "demo", "--root", folder / "demo", "--out", out,
               "--data", "test=400", "--image-size", SIZE, "--limit", count, "--workers", workers, "--format", kind,
               "--quality", QUALITY]
    began = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    cpu, memory, builder = {}, {}, process.pid
    while process.poll() is None:  # getrusage does not count the children of the fork server
        for pid in descendants(builder):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
                cpu[pid] = (int(fields[11]) + int(fields[12])) / TICK
                status = Path(f"/proc/{pid}/status").read_text()
                memory[pid] = int(status.split("VmHWM:")[1].split()[0]) / 1024
            except (OSError, IndexError):  # it has just ended
                continue
        time.sleep(0.02)
    if process.returncode:
        sys.exit(process.stderr.read().decode())
    seconds = time.perf_counter() - began
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    others = [most for pid, most in memory.items() if pid != builder]
    return Build(seconds, sum(cpu.values()), max(others or [memory[builder]]), memory[builder], size)


def descendants(pid: int) -> list[int]:
    """A process, its children, their children and so on."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text().rpartition(") ")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            continue
    processes = [pid]
    for parent in processes:
        processes += parents.get(parent, [])
    return processes


def forms_of(folder: Path, count: int) -> list[np.ndarray]:
    """All forms of a few images, uint8 (S, S, 3)."""
    frame = load_split("demo", folder / "demo", "test", test="400").frame
    frame = frame.iloc[np.linspace(0, len(frame) - 1, count).round().astype(int)]
    clean = {row.id: read_image(folder / "demo" / row.path, SIZE) for row in frame.itertuples()}
    return [make_form(image, name, *cell, MADE) for name, image in clean.items() for cell in CELLS]


def lower_bound(folder: Path, forms: list[np.ndarray], times: int, workers: int, kind: str) -> tuple[float, float]:
    """Wall and CPU seconds for each corrupted image if computing it took no time."""
    def work(number: int, queue: Any) -> None:
        cv2.setNumThreads(1)
        began = time.process_time()
        for n in range(number, times, workers):
            for i, form in enumerate(forms):
                data = building_forms.encode(form, kind, QUALITY)
                hashlib.sha256(data).hexdigest()
                (folder / f"bound/{i % len(CELLS)}/{n}-{i}.{kind}").write_bytes(data)
        queue.put(time.process_time() - began)

    for cell in range(len(CELLS)):
        (folder / f"bound/{cell}").mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    queue, began = context.Queue(), time.perf_counter()
    processes = [context.Process(target=work, args=(number, queue)) for number in range(workers)]
    for process in processes:
        process.start()
    cpu = sum(queue.get() for _ in processes)
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    shutil.rmtree(folder / "bound")
    return seconds / times / len(forms), cpu / times / len(forms)


def show_encoders(folder: Path) -> None:
    """Print time, bytes and mean change (in grey levels) of file formats, over all forms of a few faces."""
    forms = forms_of(folder, 3)
    flag = {name: getattr(cv2, f"IMWRITE_PNG_{name}") for name in (
        "COMPRESSION", "STRATEGY", "FILTER", "STRATEGY_DEFAULT", "STRATEGY_RLE", "STRATEGY_HUFFMAN_ONLY",
        "FILTER_SUB", "FILTER_UP", "FILTER_PAETH")}

    def opencv(level: int, strategy: str, row_filter: str) -> Callable[[np.ndarray], bytes]:
        options = (flag["COMPRESSION"], level, flag["STRATEGY"], flag[f"STRATEGY_{strategy}"], flag["FILTER"],
                   flag[f"FILTER_{row_filter}"])
        return lambda image: cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()

    def pillow(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    encoders = {"png, as sets are written": lambda image: building_forms.encode(image, "png")}
    for level, strategy, row_filter in (
            (0, "DEFAULT", "UP"), (1, "RLE", "SUB"), (1, "RLE", "PAETH"), (1, "HUFFMAN_ONLY", "UP"),
            (1, "DEFAULT", "UP"), (6, "DEFAULT", "UP")):
        encoders[f"png, level {level} {strategy} {row_filter}"] = opencv(level, strategy, row_filter)
    encoders["png, Pillow level 1"] = pillow
    for kind, quality in (("jpg", 75), ("jpg", 90), ("jpg", 95), ("webp", 95)):
        encoders[f"{kind}, quality {quality}"] = partial(building_forms.encode, image_format=kind, quality=quality)
    encoders["jpg, quality 95, colour halved"] = lambda image: cv2.imencode(".jpg", cv2.cvtColor(
        image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1].tobytes()
    print(f"{'':36}encode ms     kB   mean change (grey levels)   decode ms")
    for name, encode in encoders.items():
        best = np.inf
        for _ in range(3):
            began = time.process_time()
            files = [encode(form) for form in forms]
            best = min(best, time.process_time() - began)
        began = time.process_time()
        read = [read_image(io.BytesIO(data), SIZE) for data in files]
        decode = time.process_time() - began
        change = np.mean([cv2.absdiff(*pair).mean() for pair in zip(read, forms, strict=True)])
        print(f"  {name:34}{1e3 * best / len(forms):9.2f} {sum(map(len, files)) / len(forms) / 1e3:7.1f} {change:12.2f}"
              f"{1e3 * decode / len(forms):25.2f}", flush=True)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    cli.run(main, Args)
