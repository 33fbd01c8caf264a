"""The folder of the run that a training command has begun.

A training command is read here without starting its script: the script would import torch. The settings of the command
are compared with the args.json of the runs (support/run_folder.py).
"""
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from support import run_folder
from support.errors import UserError
from training.options import (
    Effect, LossOptions, MachineOptions, TrainingOptions, effects, name_loss, unused_constants)


def required_run_folder(words: tuple[str, ...]) -> Path:
    """The folder of the run that a training command has begun. Raises UserError where there is none."""
    folder = find_run_folder(words)
    if folder is None:
        raise UserError(f"no run of this command has begun; start it: {shlex.join(words)}")
    return folder


def find_run_folder(words: tuple[str, ...]) -> Path | None:
    """The folder of the run that a training command has begun, None where there is none."""
    asked, script = read_options(words)
    runs = Path(asked.pop("runs", run_folder.default_runs()))
    if not runs.is_dir():
        return None

    if "dataset" not in asked:
        raise UserError(f"the command names no --dataset: {shlex.join(words)}")
    options = TrainingOptions(asked.pop("dataset"), loss=asked.pop("loss", "ce"),
                              calib=asked.pop("calib", "") == "True")
    constants = LossOptions()
    if "maxent_multiplier" in asked:
        constants.maxent_multiplier = asked["maxent_multiplier"]
    multiplier = constants.maxent_multiplier
    name_loss(options, constants)
    if constants.maxent_multiplier != multiplier:  # the multiplier that the loss's name states
        asked["maxent_multiplier"] = constants.maxent_multiplier
    try:
        noise, seed = float(asked.pop("noise", "0")), int(asked.pop("seed", "0"))
    except ValueError:
        raise UserError(f"--noise or --seed is no number: {shlex.join(words)}") from None
    open_classes = None
    if "open" in asked:
        from datasets.open_classes import open_name  # late: the import of pandas takes half a second
        open_classes = open_name(asked.pop("open"))
        for name in run_folder.OPEN_SET_EXTRAS:
            asked.pop(name, None)
    without_effect = {name for name, effect in shared_settings().items() if effect.on != "result"}
    for name in set(asked) & without_effect:
        del asked[name]
    place = runs, options.dataset, script, options.loss, noise, seed
    unused = unused_constants(options.loss)
    own = {name: text for name, text in asked.items() if name not in unused}
    # Runs that are older than this rule have a folder of their own for constants that their loss does not have.
    return run_folder.find(*place, own, open_classes) or run_folder.find(*place, asked, open_classes)


def shared_settings() -> dict[str, Effect]:
    """The settings that all training scripts share, and what each has an effect on."""
    @dataclass
    class Shared:
        options: TrainingOptions
        loss: LossOptions
        machine: MachineOptions

    return effects(Shared)


def read_options(words: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """The options of a training command, {setting: text}, and the script's name after train_.

    Several values of an option are joined by blanks; `--x` without a value is "True", and so is `--no-x` where the
    setting itself is called no_x; otherwise `--no-x` is "False". Raises UserError if the command runs no train_*.py."""
    asked, script = read_values(words)
    texts = {name: " ".join(values) for name, values in asked.items() if values}
    for flag in asked.keys() - texts.keys():
        if flag.startswith("no_") and flag not in shared_settings():
            texts[flag.removeprefix("no_")] = "False"
        else:
            texts[flag] = "True"
    return texts, script


def read_values(words: tuple[str, ...]) -> tuple[dict[str, list[str]], str]:
    """The same with all values of an option, {setting: texts}, none for a flag."""
    places = [i for i, word in enumerate(words) if re.fullmatch(r"train_\w+\.py", Path(word).name)]
    if not places:
        raise UserError(f"this is no command that runs a train_*.py: {shlex.join(words)}")
    asked: dict[str, list[str]] = {}
    name = ""
    for word in words[places[0] + 1:]:
        if re.match("--[A-Za-z]", word):
            name, equals, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            if name != "data":  # the option that may be given several times; of others the last one counts
                asked[name] = []
            asked.setdefault(name, []).extend([value] if equals else [])
        elif name:
            asked[name].append(word)
        else:
            raise UserError(f"{word!r} is no option: {shlex.join(words)}")
    return asked, Path(words[places[0]]).stem.removeprefix("train_")
