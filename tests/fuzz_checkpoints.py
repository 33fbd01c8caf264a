"""Damaged and hostile checkpoints and descriptions of networks, for each of the readers: a case is read, or refused
with the project's own error. Every other exception, and everything written outside the scratch folder, is a failure.

  python tests/fuzz_checkpoints.py --count 5000 --seed 1
"""
import argparse
import collections
import copy
import io
import json
import pickletools
import random
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
from pathlib import Path
from typing import get_type_hints

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
import models
from models import checkpoints, pretrained, weight_files
from support.errors import UserError
from training.state import Checkpoint

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, -2**31, 10**6)
GLOBALS = (b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nbytearray\n", b"cutils.meters\nMeter\n",
           b"ctorch._utils\n_rebuild_tensor\n", b"ctorch\nTensor\n", b"ctorch\nSize\n", b"ctorch\nHalfStorage\n",
           b"ctorch\nDoubleStorage\n", b"ctorch._utils\n_rebuild_parameter\n", b"ccollections\nCounter\n",
           b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch._utils\n_rebuild_qtensor\n", b"ctorch\nfloat32\n",
           b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n", b"c__main__\nX\x1b[31m\n", b"c\n\n")
DESCRIPTIONS = (
    {"class": "models.resnet.ResNet18", "arguments": {"num_classes": 8, "image_size": 32}},
    {"class": "models.scn.SCN", "arguments": {"num_classes": 7, "image_size": 32}},
    {"class": "models.rul.RUL", "arguments": {"num_classes": 6, "image_size": 32, "dropout": 0.4}},
    {"class": "models.dmue.DMUE", "arguments": {"num_classes": 3, "image_size": 32, "stem": "dmue", "experts": "split",
                                                "missing": "zero", "neck": True, "dropout": 0.1}},
    {"class": "models.swinv2.TimmModel", "arguments": {"num_classes": 3, "image_size": 32, "backbone": "test_resnet",
                                                       "drop_path": None, "head": "features"}},
)
WORDS = ("models.checkpoints.write", "models.pretrained.load", "models.resnet.ResNetModel", "models.Model", "os.system",
         "hf-hub:a/b", "", "class", "arguments", "path", "../../x", "\x1b[31m\n", "test_vit", "half", "x" * 5000)
watch = {"folder": None, "violations": []}


class Network(models.Model):
    """A network small enough to be read thousands of times."""

    def __init__(self):
        super().__init__(3, 32)
        self.backbone = nn.Sequential(collections.OrderedDict(
            conv1=nn.Conv2d(3, 4, 3), bn1=nn.BatchNorm2d(4), layer1=nn.Sequential(nn.Conv2d(4, 4, 3), nn.Linear(4, 4))))


def guard(event, arguments):
    """An audit hook: what the cases may not do."""
    folder = watch["folder"]
    if folder is None:
        return
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
        watch["violations"].append(f"{event} {arguments!r}")
    elif event == "open" and isinstance(arguments[0], (str, bytes)):
        name, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & 3
        is_own = str(name).startswith((folder, "/dev/", "/proc/")) or "__pycache__" in str(name)
        if writes and not is_own:
            watch["violations"].append(f"open {name!r} {mode!r}")
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate", "shutil.rmtree"):
        if not str(arguments[0]).startswith(folder) and "__pycache__" not in str(arguments[0]):
            watch["violations"].append(f"{event} {arguments[0]!r}")


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def bases():
    """{reader: sound files for it}, from a fixed seed."""
    torch.manual_seed(0)
    state = Network().backbone.state_dict()
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    best = {"model": state, "epoch": 3, "scores": {"ece": 0.5}}
    last = {"epoch": 1, "step": 2, "labels": torch.arange(5), "next_labels": torch.arange(5), "best": 0.5,
            "sums": {"ce": torch.ones(2)}, "history": [{"epoch": 0, "val_ece": 0.5}], "model": state,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}}
    objects = wrapped | {"best": np.float64(3)}
    return {
        "weights": [saved(state), saved(wrapped), saved(objects), saved(Network().backbone),
                    saved(wrapped, pickle_protocol=4), saved(state, _use_new_zipfile_serialization=False),
                    saved(objects, _use_new_zipfile_serialization=False), save(dict(state))],
        "best.pt": [saved(best)], "last.pt": [saved(last)],
    }


def change_bytes(draw, data):
    """Some bytes flipped, cut out, put in or doubled."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(4)
        if kind == 0 and at < len(data):
            data[at] = draw.randrange(256)
        elif kind == 1:
            del data[at:at + draw.choice((1, 2, 9, 100))]
        elif kind == 2:
            data[at:at] = draw.randbytes(draw.choice((1, 4, 30)))
        else:
            data[at:at] = data[at:at + draw.choice((1, 9, 60))]
    return bytes(data)


def change_pickle(draw, data):
    """A pickle with some of its instructions left out, doubled, moved, or with another number, name or text."""
    places = [at for _, _, at in pickletools.genops(data)] + [len(data)]
    pieces = [data[start:end] for start, end in zip(places, places[1:], strict=False)]
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(pieces))
        piece, kind = pieces[at], draw.randrange(7)
        if kind == 0:
            del pieces[at]
        elif kind == 1:
            pieces.insert(at, piece)
        elif kind == 2:
            other = draw.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], piece
        elif kind == 3:
            pieces[at] = b"J" + struct.pack("<i", draw.choice(NUMBERS))
        elif kind == 4:
            pieces[at] = draw.choice(GLOBALS)
        elif kind == 5:
            text = draw.choice(("", "a", "conv1.weight", "model", "state_dict", "\x1b[31m\n", "x" * 300)).encode()
            pieces[at] = b"X" + struct.pack("<I", len(text)) + text
        else:
            pieces[at] = draw.choice((b"(", b"R", b"b", b"s", b"u", b"Q", b"}", b"]", b")", b"N", b"t", b"0", b"\x81"))
        if not pieces:
            break
    return b"".join(pieces)


def change_archive(draw, data):
    """A zip archive with another pickle, other records or other names; its checksums are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        records = {name: source.read(name) for name in source.namelist()}
    target = io.BytesIO()
    kind = draw.randrange(8)
    with zipfile.ZipFile(target, "w", draw.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))) as archive:
        victim = draw.choice(list(records))
        for name, content in records.items():
            if name.endswith("data.pkl") and kind < 4:
                content = change_pickle(draw, content) if kind < 3 else change_bytes(draw, content)
            elif name.endswith("byteorder") and kind == 4:
                content = draw.choice((b"big", b"little", b"", b"middle", b"\xff"))
            elif name == victim and kind == 5:
                content = change_bytes(draw, content) if draw.random() < 0.5 else b""
            elif name == victim and kind == 6:
                name = draw.choice((name + "x", "data.pkl", "x/data.pkl", "../x", "archive/constants.pkl", "/etc/x"))
            elif name == victim and kind == 7:
                continue
            archive.writestr(name, content)
    return target.getvalue()


def change_file(draw, data):
    """A damaged or hostile version of a sound file."""
    kind = draw.random()
    if kind < 0.08:
        return data[:draw.randrange(len(data))]
    if kind < 0.2:
        return change_bytes(draw, data)
    if kind < 0.22:
        return draw.randbytes(draw.randrange(300))
    if data[:2] == b"PK":
        return change_archive(draw, data)
    if data[:1] == b"\x80":  # five pickles, then the tensors
        end = sum(map(len, weight_files._consecutive_pickles(data)))
        return change_bytes(draw, data[:end]) + data[end:]
    return change_bytes(draw, data[:500]) + data[500:]


def change_description(draw, description):
    """A description of a network, as JSON gives it, with another value, name or shape somewhere."""
    description = copy.deepcopy(description)
    values = (*NUMBERS, *WORDS, None, True, [], {}, [1], {"a": 1}, 0.5, 1e308, float("nan"), float("inf"), 8, 64)
    for _ in range(draw.choice((0, 1, 1, 2))):
        kind, arguments = draw.randrange(6), description.get("arguments")
        if kind == 0:
            description["class"] = draw.choice((*values, change_text(draw, description.get("class"))))
        elif kind == 1:
            description[draw.choice(("class", "arguments", "more"))] = draw.choice(values)
        elif isinstance(arguments, dict) and arguments:
            key = draw.choice(list(arguments))
            if kind == 2:
                del arguments[key]
            elif kind == 3:
                arguments[draw.choice(("path", "state", "self", "backbone", "weights", *WORDS))] = draw.choice(values)
            else:
                arguments[key] = draw.choice((*values, change_text(draw, arguments[key])))
    return description


def change_text(draw, text):
    if not isinstance(text, str) or not text:
        return text
    at = draw.randrange(len(text))
    return text[:at] + draw.choice((".", "", "_", "\n", " ", "models", "A")) + text[at + 1:]


def read_weights(path):
    model = Network()
    pretrained.load(model, str(path))
    assert all(torch.isfinite(value).all() for value in model.backbone.state_dict().values()), "not finite"


def run(count, seed, folder):
    """Try `count` cases. Returns ({reader: Counter of "read", "refused", "past the header"}, list of failures)."""
    sound = bases()
    fields = {"best.pt": checkpoints.BEST_FIELDS, "last.pt": get_type_hints(Checkpoint)}
    counts, failures = collections.defaultdict(collections.Counter), []
    for description in DESCRIPTIONS:  # torch makes folders of its own at the first use
        with torch.device("meta"):
            models.build_model(description)
    watch.update(folder=str(folder), violations=[])
    sys.addaudithook(guard)
    try:
        for number in range(count):
            draw = random.Random(f"{seed}-{number}")
            reader = draw.choice(("weights", "weights", "best.pt", "last.pt", "description"))
            path = Path(folder) / reader
            if reader == "description":
                description = change_description(draw, draw.choice(DESCRIPTIONS))
                content = json.dumps(description).encode()
                known_classes = [known["class"] for known in DESCRIPTIONS]
                past = isinstance(description, dict) and description.get("class") in known_classes
            else:
                content = change_file(draw, draw.choice(sound[reader]))
                path.write_bytes(content)
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    if reader == "description":
                        with torch.device("meta"):  # no memory for what is built
                            models.build_model(json.loads(content))
                    elif reader == "weights":
                        past = not weight_files.foreign_kind(path)
                        read_weights(path)
                    else:
                        past = content[:2] == b"PK" and not weight_files.zip_problem(path)
                        checkpoints.read_fields(path, fields[reader])
                outcome = "read"
                if said:
                    failures.append(f"{reader} {seed}-{number}: warns {said[0].message}")
            except UserError as error:
                outcome = "refused"
                if "\x1b" in str(error) or "safe_globals" in str(error) or len(str(error)) > 2500:
                    failures.append(f"{reader} {seed}-{number}: says {str(error)[:300]!r}")
            except Exception:
                outcome = "failed"
                failures.append(f"{reader} {seed}-{number}: {traceback.format_exc()}")
            counts[reader].update([outcome] + ["past the header"] * bool(past))
            for violation in watch["violations"]:
                failures.append(f"{reader} {seed}-{number}: {violation}")
            watch["violations"].clear()
    finally:
        watch["folder"] = None
    return dict(counts), failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = run(options.count, options.seed, folder)
    print("\n".join(failures))
    for reader, count in sorted(counts.items()):
        cases = sum(count.values()) - count["past the header"]
        print(f"{reader:8} {cases:6} cases: {count['read']} read, {count['refused']} refused, "
              f"{count['failed']} failed, "
              f"{count['past the header']} past the header ({count['past the header'] / cases:.0%})")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
