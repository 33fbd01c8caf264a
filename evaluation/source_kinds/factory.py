"""MODULE:FUNCTION and FILE.py:FUNCTION, a function of the user that returns a model. Running it runs the user's code.

It runs in a process of its own (benchmark.py), with the user's folder first on the path and this project absent: most
projects have modules named models, datasets or metrics. The function is called without arguments, or with
checkpoint=PATH. The model gets uint8 images (N, 3, S, S), RGB, of the set's size, or with --input what that describes.
--classes names the classes. The model is identified by the file of the module, --checkpoint, the tensors of a torch
module, and its outputs for a few pictures: other files of the user decide them, too.
"""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from building.integrity import sha256_of_file
from evaluation import benchmark
from evaluation.model_options import ModelOptions
from evaluation.network_input import ArrayNetwork
from evaluation.source_kinds.source import Source, sha256_of_all
from support.errors import UserError

SECONDS_TO_END = 5  # that the process gets to end by itself
BYTES = {"dtype": "uint8", "range": "0..255"}  # what a function is given where --input says nothing


def load(options: ModelOptions) -> Source:
    """The model in its process. Raises UserError where the code fails or returns no model."""
    spec, folder = place_of(options)
    checkpoint = None if options.checkpoint is None else options.checkpoint.resolve()
    if checkpoint is not None and not checkpoint.is_file():
        raise UserError(f"--checkpoint {options.checkpoint}: no such file")
    process = ModelProcess(str(options.model), spec, folder, checkpoint, options.device)
    try:
        facts = process.facts()
        hashes = [sha256_of_file(Path(facts["file"]))] if facts.get("file") else []
        hashes += [sha256_of_file(checkpoint)] if checkpoint else []
        hashes += [str(facts["sha256"])] if facts.get("sha256") else []
    except BaseException:
        process.close()
        raise
    usual = {} if options.input else BYTES
    return Source(ArrayNetwork(process.outputs), sha256_of_all(hashes) if hashes else "", usual=usual,
                  parameters=facts.get("parameters"), close=process.close)


def place_of(options: ModelOptions) -> tuple[str, Path]:
    """(the text of --model with an absolute path, the folder of the user's code). Raises UserError where one of them is
    not there, or where the folder is that of this project."""
    place, _, name = str(options.model).rpartition(":")
    if not place or not name:
        raise UserError(f"--model {options.model}: write MODULE:FUNCTION or FILE.py:FUNCTION")
    folder = options.folder
    if place.endswith(".py"):
        file = Path(place).resolve()
        if not file.is_file():
            raise UserError(f"--model {options.model}: there is no file {place}")
        place, folder = str(file), folder or file.parent
    elif not all(package.isidentifier() for package in place.split(".")):
        raise UserError(f"--model {options.model}: {place!r} is neither the name of a module nor a file that ends in "
                        f".py")
    folder = (folder or Path.cwd()).resolve()
    if folder == Path(benchmark.ROOT).resolve():
        raise UserError(f"--model {options.model}: its folder is that of this project, whose modules would be taken "
                        f"for yours. Keep your code in another folder; --folder names it")
    if not folder.is_dir():
        raise UserError(f"--folder {folder}: there is no such folder")
    return f"{place}:{name}", folder


def environment_without_ours() -> dict[str, str]:
    """The environment of the user's process: this project is not on its PYTHONPATH."""
    environment = dict(os.environ)
    paths = [path for path in environment.pop("PYTHONPATH", "").split(os.pathsep) if path]
    kept = [path for path in paths if not benchmark.is_ours(path)]
    return environment | ({"PYTHONPATH": os.pathsep.join(kept)} if kept else {})


class ModelProcess:
    """The process that holds the user's model. Its outputs arrive through pipes."""

    def __init__(self, owner: str, spec: str, folder: Path, checkpoint: Path | None, device: str) -> None:
        """owner: the text of --model, for messages. spec, folder: as `place_of` gives them."""
        self.owner = owner
        request = {"spec": spec, "folder": str(folder), "checkpoint": checkpoint and str(checkpoint), "device": device,
                   "parent": os.getpid()}
        # -P: the folder of benchmark.py is not put on the path. A session of its own: Ctrl-C is left to this process.
        self.process = subprocess.Popen(
            [sys.executable, "-P", benchmark.__file__, "--serve", json.dumps(request)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=environment_without_ours(), start_new_session=True)

    def facts(self) -> dict[str, Any]:
        """What the process says of its model: the file of its module, hash and number of its weights."""
        try:
            message = benchmark.receive(self.process.stdout)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(f"{self.owner}: {error}") from None
        if message is None:
            raise UserError(self.ended())
        header = message[0]
        if header["kind"] != "model":
            raise UserError(f"{self.owner}: {str(header.get('text', ''))[:1000]}")
        return header

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """The outputs of the model, float32 or int64 (N, K), for images (N, 3, S, S), uint8, or as --input describes
        them. Raises UserError where its code fails or its process has ended."""
        try:
            return benchmark.ask(self.process.stdout, self.process.stdin, images)  # type: ignore[arg-type]
        except EOFError:
            raise UserError(self.ended()) from None
        except (benchmark.BenchmarkError, ValueError) as error:
            raise UserError(f"{self.owner}: {error}") from None

    def ended(self) -> str:
        """The message for a process that has ended too early."""
        try:
            code = self.process.wait(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            code = None
        reason = ""
        if code is not None:
            reason = f" by signal {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"
        return f"{self.owner}: its process has ended{reason}; what it printed stands above"

    def close(self) -> None:
        """End the process and all that it has started."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass
        try:
            self.process.wait(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            pass
        benchmark.end(self.process)
