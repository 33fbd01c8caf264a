"""Where a model comes from: a network with trained weights, ready to be scored.

`load_model` reads a run that trained_run.py has read: it builds the network and loads the weights of best.pt.
`opened_model` reads a model of any other kind: source_kinds/ reads it, and here its input, outputs and classes are put
together with the options, and one picture is tried. The result, a `LoadedModel`, goes to scoring.py.
"""
import contextlib
import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import models
from building.built_set import BuiltSet
from building.integrity import sha256_of_file
from evaluation.input_format import InputFormat, complete_format, stated_fields
from evaluation.logits_source import StoredLogits, open_logits
from evaluation.model_facts import SUM_TOLERANCE, ModelFacts
from evaluation.model_options import ModelOptions, check_options, class_names, kind_of, model_name, short_source
from evaluation.network_input import PreparedNetwork
from evaluation.source_kinds.source import Source, parameters_of, sha256_of_all
from evaluation.trained_run import RESTORE_OR_TRAIN, TrainedRun, training_command
from models import checkpoints
from support import run_folder
from support.errors import DamagedFile, UserError, first_line
from support.random_streams import keyed_rng

KIND_FILES = {"timm": "timm_network", "onnx": "onnx_file", "tflite": "tflite_file", "hf": "transformers_folder",
              "pt2": "exported_program", "torchscript": "torchscript_file", "factory": "factory", "python": "caller"}
OWN_PROCESS = ("factory", "python")  # kinds whose network runs in a process of its own, or of its caller


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be scored."""

    name: str
    """what messages and tables call it: the run's folder, --name, or made from --model"""
    module: torch.nn.Module
    """takes images, uint8 (N, 3, S, S), RGB, and returns logits (N, K); preprocessing is in it"""
    classes: list[str]
    """names of the classes, in the order of the module's outputs"""
    weights_sha256: str
    """hash of what decides the outputs, as hexadecimal digits: of a run the file best.pt; of a function of the user
    also its outputs for a few pictures. Predictions of other weights are not used"""
    facts: ModelFacts
    """what is known about it besides, for cards"""
    reading: Callable[[InputFormat], torch.nn.Module] | None = None
    """the same network for pictures that are read in another way, as a module like `module`; None where it cannot be.
    Where facts.input has dtype uint8, only the colours can be read in another way"""
    deliver: Callable[[list[dict[str, Any]]], None] | None = None
    """gives rows of scores.csv to the process that has asked for them (benchmark.py); None: nobody has"""
    has_fixed_size: bool = False
    """whether the network takes pictures of facts.input.size and of no other"""


def load_model(run: TrainedRun) -> LoadedModel:
    """The network of a run with its best weights. Raises UserError where the weights are missing, and DamagedFile where
    they are damaged or belong to another network than args.json describes."""
    try:
        network = models.build_model(run.network)
    except UserError as error:
        raise DamagedFile(f"{run.settings_file}: {error}; {RESTORE_OR_TRAIN}") from None
    path = run.folder / run_folder.BEST_CHECKPOINT
    if not path.exists():
        raise UserError(missing_weights_message(run, path))
    try:
        state = checkpoints.read_fields(path, {"model": checkpoints.Weights})["model"]
    except DamagedFile as error:
        raise DamagedFile(f"{error}. Restore it, or train again with {training_command(run, fresh=True)}") from None
    weights_sha256 = sha256_of_file(path)
    load_weights(network, state, path)
    format = InputFormat(size=run.image_size, dtype="uint8")
    facts = ModelFacts("run", run.folder.name, parameters_of(network), format)
    return LoadedModel(str(run.folder), network, run.classes, weights_sha256, facts,
                       lambda other: PreparedNetwork(network, other, "logits"))


def missing_weights_message(run: TrainedRun, path: Path) -> str:
    """The message for a run without best.pt: it was removed, or the first epoch has not ended."""
    if run_folder.trained_epochs(run.folder):
        return f"{path} was removed. Restore it, or train again with {training_command(run, fresh=True)}"
    command = training_command(run, fresh=False)
    return f"{path} is not there, the training has not finished an epoch yet. Go on with {command}"


def load_weights(network: torch.nn.Module, state: Any, path: Path) -> None:
    """Load the tensors `state`, read from best.pt at `path`, into the network. Raises DamagedFile where names, shapes
    or types of the tensors are not exactly the network's."""
    expected = network.state_dict()
    stored = state if isinstance(state, dict) else {}
    names = [*expected, *(name for name in stored if name not in expected)]
    wrong = [name for name in names if not same_layout(stored.get(name), expected.get(name))]
    if wrong:
        raise DamagedFile(f"{path} does not hold the weights of {type(network).__name__} as args.json describes it: "
                          f"{len(wrong)} tensors are missing, unknown or of another shape, for example {wrong[0]}. "
                          f"Restore the two files of one run")
    network.load_state_dict(stored)


def same_layout(stored: Any, expected: Any) -> bool:
    """Whether both values are tensors of the same shape, type and memory layout."""
    if not isinstance(stored, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return False
    return (stored.shape, stored.dtype, stored.layout) == (expected.shape, expected.dtype, expected.layout)


def check_image_size(model: LoadedModel, size: int) -> None:
    """Run the network on one image of `size` pixels, before hours are spent. Raises UserError where the network does
    not take images of this size or where its outputs are none, and DamagedFile where the outputs of a run are not one
    number for each class."""
    model.module.eval()
    if isinstance(model.module, PreparedNetwork):
        try_one_picture(model.name, model.module, model.classes, size)
        return
    try:
        with torch.no_grad():
            outputs = model.module(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    except Exception as error:  # networks refuse a size in many ways
        raise UserError(f"{model.name}: its network cannot take images of {size} pixels ({first_line(error)})"
                        ) from None
    if not isinstance(outputs, torch.Tensor):
        outcome: Any = type(outputs).__name__
    else:
        outcome = tuple(outputs.shape)
    if outcome != (1, len(model.classes)):
        raise DamagedFile(f"{model.name}: its {run_folder.ARGS_FILE} is damaged: it names {len(model.classes)} "
                          f"classes, and the network gives {outcome} for one image; {RESTORE_OR_TRAIN}")


# ---- models that are no runs

@contextlib.contextmanager
def opened_model(options: ModelOptions, built_sets: Sequence[BuiltSet],
                 statements: dict[str, str]) -> Iterator[LoadedModel | StoredLogits]:
    """A model that is no run. Its process, where it has one of its own, ends with the context.

    built_sets: those that it is scored on. statements: what the user states, for its facts. Raises UserError where the
    model cannot be loaded, or where something is not known that cannot be guessed."""
    spec = str(options.model)
    kind = kind_of(spec)
    check_options(kind, options)
    name = model_name(kind, options)
    if kind == "logits":
        yield stored_logits(options, name, built_sets, statements)
        return
    classes, size = built_sets[0].classes, built_sets[0].made_with["size"]
    if kind == "timm" and options.classes is None:
        raise UserError(f"--model {spec}: add --classes, the names of its classes in the order of its outputs; those "
                        f"of the set are --classes {','.join(classes)}")
    source: Source = importlib.import_module(f"evaluation.source_kinds.{KIND_FILES[kind]}").load(options)
    try:
        model = put_together(source, kind, name, options, classes, size)
        for other in sorted({built.made_with["size"] for built in built_sets[1:]} - {size}):
            check_image_size(model, other)
        yield replace(model, facts=replace(model.facts, statements=statements))
    finally:
        if source.close is not None:
            source.close()


def stored_logits(options: ModelOptions, name: str, built_sets: Sequence[BuiltSet],
                  statements: dict[str, str]) -> StoredLogits:
    """The predictions of logits:PATH. Raises UserError where they do not fit the set, or where there are several."""
    if len(built_sets) != 1:
        raise UserError("logits:PATH are predictions for one set, and --set names several: score them one after the "
                        "other")
    classes = class_names(options.classes) if options.classes else None
    path = Path(str(options.model).removeprefix("logits:"))
    stored = open_logits(path, built_sets[0], options.output or "logits", classes, name)
    return replace(stored, facts=replace(stored.facts, statements=statements))


def put_together(source: Source, kind: str, name: str, options: ModelOptions, set_classes: Sequence[str],
                 size: int) -> LoadedModel:
    """The model of a source, with what the options state. Raises UserError where the two contradict each other, and
    where something is not known that cannot be guessed."""
    stated = stated_fields(options.input) if options.input else {}
    format = input_format(source, stated, name)
    classes = class_names(options.classes) if options.classes else source.classes
    outputs = first_outputs(name, PreparedNetwork(source.network, format, "logits"), size)
    if classes is None:
        raise UserError(classes_message(name, outputs.shape[1], set_classes))
    output = options.output or source.output or output_of_numbers(name, outputs)
    module = PreparedNetwork(source.network, format, output)
    try_one_picture(name, module, classes, size)
    known = {**source.usual, **source.fixed}
    changed = {}
    if any(key in known and known[key] != value for key, value in stated.items()):
        changed["input"] = str(options.input)
    if options.classes and source.classes is not None and source.classes != classes:
        changed["classes"] = ",".join(classes)
    if options.output and source.output not in (None, options.output):
        changed["output"] = options.output
    facts = ModelFacts(kind, short_source(str(options.model)), source.parameters, format, output, changed)
    hashes = [source.weights_sha256] if source.weights_sha256 else []
    if kind in OWN_PROCESS or not hashes:  # code and files of the user that no hash knows decide the outputs, too
        hashes.append(hash_of_outputs(module, size))
    return LoadedModel(name, module, classes, sha256_of_all(hashes), facts,
                       lambda other: PreparedNetwork(source.network, other, output), source.deliver,
                       has_fixed_size="size" in source.fixed)


def input_format(source: Source, stated: dict[str, Any], name: str) -> InputFormat:
    """What the network takes, from its source and what --input states. Raises UserError where they contradict each
    other, and where the range is not known."""
    for key, value in source.fixed.items():
        if stated.get(key, value) != value:
            raise UserError(f"--input {key}={stated[key]}: {name} takes {key}={value} and nothing else")
    known = {**source.usual, **source.fixed}
    if source.channels == 1:
        known.setdefault("colour", "grey")
    try:
        format = complete_format(known, stated)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if source.fixed.get("dtype") == "uint8" and format.dtype != "uint8":  # a range or mean makes it float32
        raise UserError(f"--input {_text_of_range(stated)}: {name} takes uint8 pictures of range 0..255 and nothing "
                        f"else, and scales them itself")
    if source.channels is not None and format.channels != source.channels:
        raise UserError(f"--input colour={format.colour}: {name} takes {source.channels} "
                        f"{'channel' if source.channels == 1 else 'channels'}")
    return format


def _text_of_range(stated: dict[str, Any]) -> str:
    """What --input states of the range, for a message: range=..., or the names mean and std."""
    return f"range={stated['range']}" if "range" in stated else " and ".join(
        key for key in ("mean", "std") if key in stated)


def classes_message(name: str, count: int, set_classes: Sequence[str]) -> str:
    """The message for a model that does not say the names of its classes. count: number of its outputs."""
    return (f"{name} has {count} outputs and does not say which classes they are. State their names in the order of "
            f"the outputs; those of the set are --classes {','.join(set_classes)}")


def first_outputs(name: str, module: PreparedNetwork, size: int) -> np.ndarray:
    """What the network itself gives for one picture of `size` pixels: float32 (1, K). Raises UserError where it takes
    no such picture, or gives anything else than one row of finite numbers."""
    module.eval()
    try:
        with torch.no_grad():
            outputs = module.outputs(picture(size))
    except UserError:
        raise
    except Exception as error:  # networks refuse a picture in many ways
        raise UserError(f"{name} cannot take pictures of {size} pixels as {module.format.description()} "
                        f"({first_line(error)[:300]}). --input changes that") from None
    if not isinstance(outputs, torch.Tensor):
        kind = type(outputs).__name__
        length = f" of {len(outputs)}" if isinstance(outputs, tuple | list | dict) else ""
        raise UserError(f"{name} gives a {kind}{length}, not one array of outputs (N, classes); wrap it in a function "
                        f"that returns the logits alone")
    if outputs.ndim != 2 or outputs.shape[0] != 1 or outputs.shape[1] < 2:
        raise UserError(f"{name} gives outputs of shape {tuple(outputs.shape)} for one picture; (1, number of classes) "
                        f"is needed")
    if not outputs.is_floating_point():
        raise UserError(f"{name} gives whole numbers ({str(outputs.dtype).removeprefix('torch.')}), not logits or "
                        f"probabilities: calibration needs a confidence for each class")
    if not torch.isfinite(outputs).all():
        raise UserError(f"{name} gives numbers that are not finite for a picture; look at its weights, and at the "
                        f"range that --input states")
    return outputs.float().cpu().numpy()


def hash_of_outputs(module: PreparedNetwork, size: int) -> str:
    """sha256 of the logits of a few pictures: what identifies a model whose weights, or whose code, cannot be read.
    A model that gives other digits each time is another model each time, so that its predictions are not used again."""
    with torch.no_grad():
        outputs = [module(picture(size, number)).cpu().numpy().tobytes() for number in range(8)]
    return hashlib.sha256(b"".join(outputs)).hexdigest()


def picture(size: int, number: int = 0) -> torch.Tensor:
    """Picture `number` of random grey levels, always the same, uint8 (1, 3, S, S). A black one would make many
    networks give what no real picture gives."""
    values = keyed_rng("picture that a model is tried with", size, number).integers(0, 256, (1, 3, size, size))
    return torch.from_numpy(values.astype(np.uint8))


def are_probabilities(outputs: np.ndarray) -> bool:
    """Whether the rows of outputs, (N, K), can be probabilities."""
    return bool((outputs >= -1e-6).all() and (np.abs(outputs.sum(1) - 1) <= SUM_TOLERANCE).all())


def output_of_numbers(name: str, outputs: np.ndarray) -> str:
    """"logits" for outputs (N, K) of a model that does not say what they are. Raises UserError where they look like
    probabilities."""
    if are_probabilities(outputs):
        raise UserError(f"{name} gives numbers from 0 to 1 whose sum is 1: add --output probabilities, or --output "
                        f"logits if they are logits all the same")
    return "logits"


def try_one_picture(name: str, module: PreparedNetwork, classes: Sequence[str], size: int) -> None:
    """Raises UserError where the model's outputs for a picture of `size` pixels are not what was stated: one finite
    number for each class, and probabilities where they are to be probabilities."""
    outputs = first_outputs(name, module, size)
    if outputs.shape[1] != len(classes):
        raise UserError(f"{name} has {outputs.shape[1]} outputs, and {len(classes)} classes are named "
                        f"({', '.join(classes[:12])}); --classes names one for each output")
    if module.output == "probabilities" and not are_probabilities(outputs):
        raise UserError(f"{name}: --output probabilities, but its outputs for a picture go from {outputs.min():.3g} to "
                        f"{outputs.max():.3g} and their sum is {outputs.sum():.3g}; add --output logits if they are "
                        f"logits")
