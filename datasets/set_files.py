"""The files of a built set (RAF-DB-C, Demo-C, ...): where they lie, and whether manifest and checksums are as written.

Nothing that a file of a set says is taken for granted: every value that is used later is checked here for its type and
range, and what follows from other values (the set version, the content hash) is computed again.
"""
import hashlib
import heapq
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import cli
from cli import DamagedFile, UserError, first_line
from corruptions import CORRUPTIONS, arguments_of
from datasets import SAFE_ID

FORMAT = 1
SEVERITIES = (1, 2, 3, 4, 5)
CELLS = tuple((name, severity) for name in CORRUPTIONS for severity in SEVERITIES)
FOLDERS = ("clean", *(f"images/{name}/{severity}" for name, severity in CELLS))  # the 86 files of a source image
TABLES = ("labels.csv", "soft_labels.npy", "visibility.npy", "visibility_mean.csv", "gmm.json")
OPTIONAL = ("gmm.json",)  # a set whose labels came without a mixture has none
IMAGE_FORMATS = ("png", "jpg", "webp")
SIZES = range(16, 8001)  # sides of images in pixels; above, one image has more than 64 megapixels

# Settings that two sets of one set version have in common; the version is a hash of their values.
IDENTITY = ("format", "dataset", "size", "seed", "image_format", "quality", "constants", "softening", "ids", "labels")

NUMBER, NOTHING = (int, float), type(None)
MANIFEST = {"set_version": str, "title": str, "classes": list, "counts": dict, "notes": dict, "made_with": dict,
            "software": dict, "worst": dict, "content": str}
MADE_WITH = {"format": int, "dataset": str, "size": int, "seed": int, "image_format": str, "quality": (int, NOTHING),
             "constants": dict, "softening": dict, "ids": str, "labels": str, "options": dict, "protocol": str,
             "preset": str, "limit": (int, NOTHING), "images": int, "sources": str, "encoder": str}
SOFTENING = {"beta": NUMBER, "exponent": NUMBER, "visibility": str, "visibility_per": str}
WORST = {"difference": NUMBER, "corruption": str, "severity": int, "images": list}
HEX = re.compile(r"[0-9a-f]{64}")


# ---- names

def partial_of(folder: Path) -> Path:
    """Where a set or a shard grows until it is whole."""
    return folder.parent / (folder.name + ".partial")


def files_of(image_id: str, image_format: str) -> list[str]:
    """The 86 files of a source image, in the order of `FOLDERS`. The clean one is PNG whatever the others are: a set
    without images/ makes them from it."""
    return [f"{folder}/{image_id}.{'png' if folder == 'clean' else image_format}" for folder in FOLDERS]


def rebuild_command(folder: Path, made: dict) -> str:
    """The command line that builds a set with the settings `made` (the manifest's `made_with`) into `folder`. Where the
    data lie and which mixture file was given is not among the settings."""
    words = ["make_fer_c.py", "--dataset", made["dataset"], "--out", str(folder), "--image-size", made["size"]]
    for key, value in made["options"].items():
        words += ["--data", f"{key}={value}"]
    if made["protocol"] != "paper":
        words += ["--protocol", made["protocol"]]
    typed = {"corruptions": (made["preset"], "fer-c"), "format": (made["image_format"], "png"),
             "quality": (made["quality"], None), "limit": (made["limit"], None), "seed": (made["seed"], 0),
             "beta": (made["softening"]["beta"], 0.5), "exponent": (made["softening"]["exponent"], 2),
             "visibility": (made["softening"]["visibility"], "l2"),
             "visibility-per": (made["softening"]["visibility_per"], "image")}
    for name, (value, default) in typed.items():
        if value != default:
            words += [f"--{name}", value]
    return shlex.join(map(str, words))


def mending(folder: Path, made: dict) -> str:
    """What to do about a damaged file of a set."""
    return (f"restore it from another copy or build the set again (with --root, --gmm and --no-images as then): "
            f"{rebuild_command(folder, made)}")


# ---- reading

def read_regular(path: Path) -> bytes:
    """The bytes of a file. Raises OSError where there is none, DamagedFile where it is no regular file."""
    if path.exists() and not path.is_file():  # a pipe would wait for a writer for ever
        raise DamagedFile(f"{path} is no regular file")
    return path.read_bytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(texts: Iterable[str]) -> str:
    """One sha256 over texts."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode() + b"\n")
    return whole.hexdigest()


def require(condition: bool, file: Path, reason: str) -> None:
    """Raises DamagedFile naming the file and the reason unless the condition holds."""
    if not condition:
        raise DamagedFile(f"{file} is damaged ({reason})")


def require_types(values: dict, types: dict, file: Path, where: str = "") -> None:
    """Every key of `types` is in `values`, with a value of that type; numbers are finite, true and false no numbers."""
    for key, kind in types.items():
        require(key in values, file, f"{where}{key} is missing")
        value = values[key]
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if isinstance(value, float):
            fits = fits and math.isfinite(value)
        require(fits, file, f"{where}{key} has the wrong type ({type(value).__name__})")


def check_made_with(made: dict, file: Path, where: str = "") -> None:
    """The settings in a manifest or a build.json. Raises DamagedFile naming the key that is missing or wrong."""
    require_types(made, MADE_WITH, file, where)
    require(SAFE_ID.fullmatch(made["dataset"]) is not None, file, f"{where}dataset is no name of a data set")
    require(made["size"] in SIZES, file, f"{where}size is out of range")
    require(made["images"] >= 1, file, f"{where}images is out of range")
    require(made["image_format"] in IMAGE_FORMATS, file, f"{where}image_format is unknown")
    quality = made["quality"]
    require((quality is None) == (made["image_format"] == "png"), file, f"{where}quality does not fit image_format")
    require(quality is None or 1 <= quality <= 100, file, f"{where}quality is out of range")
    for key in ("ids", "labels", "sources"):
        require(HEX.fullmatch(made[key]) is not None, file, f"{where}{key} is no sha256")
    for key, value in made["options"].items():
        require(isinstance(value, str), file, f"{where}options.{key} has the wrong type")
    softening = made["softening"]
    require_types(softening, SOFTENING, file, f"{where}softening.")
    require(0 <= softening["beta"] <= 1 and softening["exponent"] > 0, file, f"{where}softening is out of range")
    check_constants(made["constants"], file, f"{where}constants")


def check_constants(constants: dict, file: Path, where: str) -> None:
    """{corruption: five times {argument: number or null}}, as `corruptions.constants` gives them; a set may lack the
    arguments that came later and have a default."""
    require(set(constants) == set(CORRUPTIONS), file, f"{where} has other corruptions than the 17 of FER-C")
    for name, rows in constants.items():
        require(isinstance(rows, list) and len(rows) == len(SEVERITIES), file, f"{where}.{name} has not 5 severities")
        for row in rows:
            require(isinstance(row, dict) and set(row) <= set(arguments_of(name)), file,
                    f"{where}.{name} has unknown arguments")
            require_types(row, dict.fromkeys(row, (int, float, NOTHING)), file, f"{where}.{name}.")


def read_manifest(folder: Path) -> dict:
    """The manifest of a built set. Raises UserError when it is missing, unfinished or of another format, DamagedFile
    naming file and key where it is not as written."""
    file = folder / "manifest.json"
    if not file.is_file():
        raise UserError(f"{folder} is no FER-C set: {_why_no_set(folder)}")
    again = f"; restore it from another copy or build the set again with make_fer_c.py --dataset NAME --out {folder}"
    try:
        manifest = cli.read_json(file)
        require_types(manifest, MANIFEST, file)
        made = manifest["made_with"]
        require_types(made, {"format": int}, file, "made_with.")
        if made["format"] != FORMAT:
            raise UserError(f"{folder} is of format {made['format']}, not {FORMAT}: build it again with make_fer_c.py "
                            f"--dataset NAME --out FOLDER")
        check_made_with(made, file, "made_with.")
        check_facts(manifest, file)
        require(manifest["set_version"] == set_version(made), file, "set_version does not follow from made_with")
    except DamagedFile as error:
        raise DamagedFile(f"{error}{again}") from None
    return manifest


def _why_no_set(folder):
    """Why a folder is no set, and the command that makes it one."""
    partial = partial_of(folder)
    name = "NAME"
    if not partial.is_dir():
        return f"no manifest.json. Build it with make_fer_c.py --dataset {name} --out {folder}"
    try:
        name = cli.read_json(partial / "build.json").get("dataset", name)
    except (OSError, UserError):
        pass
    return (f"its build is not finished ({partial}): start it again with its options, make_fer_c.py --dataset {name} "
            f"--out {folder} ...")


def check_facts(manifest: dict, file: Path) -> None:
    """What a manifest says besides the settings. Raises DamagedFile."""
    classes = manifest["classes"]
    require(len(classes) > 0 and all(isinstance(name, str) for name in classes), file, "classes are no names")
    require(len(set(classes)) == len(classes), file, "two classes have the same name")
    require(HEX.fullmatch(manifest["content"]) is not None, file, "content is no sha256")
    for name, value in manifest["software"].items():
        require(isinstance(value, str), file, f"software.{name} has the wrong type")
    for name, value in manifest["counts"].items():
        require_types({name: value}, {name: int}, file, "counts.")
    worst = manifest["worst"]
    require_types(worst, WORST, file, "worst.")
    require(worst["difference"] > 0, file, "worst.difference is not positive")
    require((worst["corruption"], worst["severity"]) in CELLS, file, "worst names no corruption at a severity")
    require(all(isinstance(name, str) for name in worst["images"]), file, "worst.images are no names")
    require(isinstance(manifest.get("unchanged", []), list), file, "unchanged has the wrong type")  # new in release 2
    for cell in manifest.get("unchanged", []):
        require(isinstance(cell, dict), file, "unchanged has the wrong type")
        require_types(cell, {"corruption": str, "severity": int, "fraction": NUMBER}, file, "unchanged.")


def set_version(made: dict) -> str:
    """The hash that two sets have in common when scores on them are comparable; `made`: at least `IDENTITY`."""
    return sha256(json.dumps({key: made[key] for key in IDENTITY}, sort_keys=True).encode())


# ---- checksums

def line_name(line: tuple[str, str]) -> str:
    return line[1]


def content_hash(lines: Iterable[tuple[str, str]]) -> str:
    """One hash over the (sha256, name) of all files, those in images.sha256 included; not over the manifest, which
    holds it."""
    return digest(f"{value}  {name}" for value, name in lines if name not in ("manifest.json", "images.sha256"))


def listed(folder: Path) -> Iterator[tuple[str, str]]:
    """(sha256, name) of every file of a set, images.sha256 included, by name. Raises DamagedFile on anything else, and
    on a name that leads out of the set."""
    def read(file):
        for number, line in enumerate(read_regular(file).decode("ascii").splitlines(), 1):
            value, _, name = line.partition("  ")
            parts = name.split("/")
            if not HEX.fullmatch(value) or not name.isprintable() or not set(parts).isdisjoint({"", ".", ".."}):
                raise ValueError(f"line {number} of {file.name} is not a sha256 and the name of a file of the set")
            yield value, name

    files = [folder / name for name in ("checksums.sha256", "images.sha256")]
    try:
        yield from heapq.merge(*(read(file) for file in files if file.exists() or file == files[0]), key=line_name)
    except FileNotFoundError:
        raise DamagedFile(f"{files[0]} is missing") from None
    except ValueError as error:  # UnicodeDecodeError among them
        raise DamagedFile(f"{folder}: the checksums are damaged ({first_line(error)})") from None


class Checksums:
    """checksums.sha256 of a set, with images.sha256 where it lists one, as the hashes that files have to have.

    Reading checks that the manifest has the hash that is listed and that the list gives the manifest's `content`; two
    steps, since the names of the images follow from labels.csv, which is itself among the files.
    """

    def __init__(self, folder: Path, content: str):
        """Raises DamagedFile where a list is missing, malformed or not the one that was written with the manifest."""
        self.file = folder / "checksums.sha256"
        try:
            lines = self._lines(self.file)
            manifest = self._take(lines, b"  manifest.json")
            require(manifest == sha256(read_regular(folder / "manifest.json")), folder / "manifest.json",
                    "its hash differs from checksums.sha256")
            if any(line[64:] == b"  images.sha256" for line in lines):
                images = folder / "images.sha256"
                place = next(i for i, line in enumerate(lines) if line[64:] == b"  images.sha256")
                require(lines[place][:64].decode("ascii", "replace") == sha256(read_regular(images)), images,
                        "its hash differs from checksums.sha256")
                lines[place:place + 1] = self._lines(images)  # "images.sha256" stands where its names belong
        except OSError as error:
            raise DamagedFile(f"{error.filename}: {error.strerror}") from None
        require(sha256(b"\n".join(lines) + b"\n") == content, self.file, "it does not give the manifest's content hash")
        self.lines = lines
        beside = {line[66:].decode(): line[:64].decode() for line in lines if b"/" not in line}
        self.tables = {name: beside[name] for name in TABLES if name in beside}
        for name in TABLES:
            require(name in self.tables or name in OPTIONAL, self.file, f"it does not list {name}")

    @staticmethod
    def _lines(file):
        data = read_regular(file)
        require(data.isascii() and data.endswith(b"\n"), file, "not in sha256sum's form")
        return data[:-1].split(b"\n")

    def _take(self, lines, name):
        place = next((i for i, line in enumerate(lines) if line[64:] == name), None)
        require(place is not None, self.file, f"it does not list {name.decode().strip()}")
        return lines.pop(place)[:64].decode("ascii")

    def of_images(self, ids: list[str], image_format: str) -> np.ndarray:
        """The hashes of all images: uint8 (86, N, 32), in the order of `FOLDERS` and of `ids`. Raises DamagedFile
        unless exactly the files of these images are listed, in the order in which they were written."""
        values = np.empty((len(FOLDERS), len(ids), 32), np.uint8)
        orders = {suffix: sorted(range(len(ids)), key=lambda i, suffix=suffix: f"{ids[i]}.{suffix}")
                  for suffix in {"png", image_format}}
        start = 0
        for part in sorted([*self.tables, *(f"{folder}/" for folder in FOLDERS)]):
            if part in self.tables:
                start += 1
                continue
            number = FOLDERS.index(part[:-1])
            suffix = "png" if number == 0 else image_format
            section = self.lines[start:start + len(ids)]
            expected = [f"  {part}{ids[i]}.{suffix}".encode() for i in orders[suffix]]
            require([line[64:] for line in section] == expected, self.file,
                    f"it does not list the images of {part} as labels.csv names them")
            try:
                found = bytes.fromhex(b"".join(line[:64] for line in section).decode())
            except ValueError:
                found = b""
            require(len(found) == 32 * len(ids), self.file, f"a hash of {part} is malformed")
            values[number, orders[suffix]] = np.frombuffer(found, np.uint8).reshape(len(ids), 32)
            start += len(ids)
        require(start == len(self.lines), self.file, "it lists files that are no part of the set")
        return values
