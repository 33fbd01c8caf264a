"""What a file is that was given as weights, found out without running anything that it holds. No torch in this file."""
import importlib.util
import pickletools
import re
import stat
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

HEAD = 4096  # bytes of the file's beginning that are looked at
LARGEST = 64 << 30  # bytes that a checkpoint may unpack to
TORCH_PICKLE = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before PyTorch 1.6
SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", "a Keras or HDF5 file; only PyTorch's checkpoints and .safetensors files can be read"),
    (b"\x93NUMPY", "a NumPy array; only PyTorch's checkpoints and .safetensors files can be read"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"\xfd7zXZ\x00", "compressed by xz; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89PNG", "a picture, not a checkpoint"),
    (b"\xff\xd8\xff", "a picture, not a checkpoint"),
    (b"%PDF", "a PDF document, not a checkpoint"),
)
WEB_PAGE = re.compile(rb"\s*(<!doctype\s+html|<html|<head|<body|<\?xml|<!--)", re.IGNORECASE)
# Modules whose functions change the machine. A checkpoint has no need of them; pickle would call them on loading.
DANGEROUS = {"os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "runpy", "ctypes", "pty",
             "code", "multiprocessing", "pickle", "webbrowser", "asyncio", "urllib", "http", "marshal", "pip"}
# What torch.load rebuilds by itself, with weights_only.
PLAIN = re.compile(r"collections\.(OrderedDict|Counter)|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|complex)"
                   r"|torch\.(_utils\._rebuild\w+|_tensor\._rebuild\w+|(cuda\.)?\w*(Storage|Tensor)|storage\.\w+|Size"
                   r"|device|nn\.parameter\.Parameter|serialization\._get_layout|(u?int|b?float|complex|q)\w*|bool)")
DANGEROUS_BUILTINS = {"eval", "exec", "compile", "open", "__import__", "input", "breakpoint", "exit", "quit", "help"}
NAME = re.compile(r"[A-Za-z_][\w.]{0,200}")


def foreign_kind(path: Path) -> str:
    """What the file is if it is certainly no checkpoint that can be read: the rest of a sentence that begins with
    "FILE is ", with what to do. An empty text for what may be a checkpoint. Raises OSError where it cannot be read,
    FileNotFoundError where there is none."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return "a folder; give the file in it" + (", best.pt" if (path / "best.pt").exists() else "")
    if not stat.S_ISREG(mode):
        return "no regular file"
    with open(path, "rb") as file:
        head = file.read(HEAD)
    size = path.stat().st_size
    if not head:
        return "empty: its download or its copy failed"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a pointer of Git LFS, not the weights themselves; fetch them with `git lfs pull`"
    if head.startswith(b"/annex/objects/"):
        return "a pointer of git-annex, not the weights themselves; fetch them with `git annex get`"
    if WEB_PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "a web page, not a checkpoint (the download needs a login or failed)"
    for signature, kind in SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if head[:1] == b"\x08" and head[2:3] == b"\x12":
        return "an ONNX network; only PyTorch's checkpoints and .safetensors files can be read"
    if size >= 10 and head[8:10] in (b'{"', b"{ ") and int.from_bytes(head[:8], "little") < size:
        return "" if path.suffix == ".safetensors" else "in the safetensors format; rename it to end in .safetensors"
    if path.suffix == ".safetensors":
        return "named .safetensors and not in that format, or cut short; fetch it again"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path, size)
    if len(head) > 1 and head[0] == 0x80 and head[1] <= 5:
        return "" if TORCH_PICKLE.startswith(head[:len(TORCH_PICKLE)]) else _kind_of_pickle(path)
    text = head.decode("utf-8", "ignore")
    if sum(character.isprintable() or character.isspace() for character in text) > 0.9 * len(head):
        beginning = "".join(character if character.isprintable() else " " for character in text[:40]).strip()
        return f"a text file (it begins with {beginning!r}), not a file of plain tensors"
    return "not a file of plain tensors: neither torch.save nor safetensors wrote it, or it is damaged"


def _kind_of_zip(path: Path, size: int) -> str:
    problem = zip_problem(path)
    if problem:
        return f"a checkpoint that is cut short or damaged ({size} bytes; {problem}); fetch it again"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return ("a TorchScript network, which holds code. If you trust its source, save its tensors once, in Python, "
                f"and give the new file:\n{lines_of_advice(path, 'torch.jit.load', '.state_dict()')}")
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz); only PyTorch's checkpoints and .safetensors files can be read"
    return f"a zip archive of {len(names)} other files ({', '.join(map(repr, names[:3]))}); unpack it first"


def zip_problem(path: Path) -> str:
    """Why a file of torch.save cannot be read, and an empty text where every record in it has its checksum. (torch
    itself does not look at the checksums.)"""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                return f"it would unpack to more than {LARGEST >> 30} GiB"
            damaged = archive.testzip()
    except Exception as error:  # what is damaged can fail in any way
        return "no list of its records" if isinstance(error, zipfile.BadZipFile) else type(error).__name__
    return f"the checksum of {damaged!r} is wrong" if damaged else ""


def _kind_of_pickle(path: Path) -> str:
    names, _, _ = pickled_names(path)
    if any(map(is_dangerous, names)):
        return warning(names)
    new = new_name(path)
    content = f" (it holds {', '.join(names[:3])})" if names else ""
    return (f"a plain pickle, not a file of torch.save{content}. Loading it runs code from it. If you trust its "
            "source, save its arrays as tensors once, in Python, and give the new file:\n  import pickle, torch\n"
            f"  state = pickle.load(open({str(path)!r}, 'rb'), encoding='latin1')\n"
            f"  torch.save({{key: torch.as_tensor(value) for key, value in state.items()}}, {new!r})")


def new_name(path: Path) -> str:
    """The name that the advice gives to the file of plain tensors."""
    return str(path.with_name(f"{path.stem}-tensors.pth"))


def lines_of_advice(path: Path, loader: str, suffix: str, options: str = "", first: str = "import torch") -> str:
    """Three lines of Python that save the state dict of `path` as plain tensors: it is `suffix` (an index, a call) of
    what the function `loader` gives."""
    return (f"  {first}\n"
            f"  state = {loader}({str(path)!r}, map_location='cpu'{options}){suffix}\n"
            "  torch.save({key: value for key, value in state.items() if torch.is_tensor(value)}, "
            f"{new_name(path)!r})")


def pickled_names(path: Path) -> tuple[list[str], bool, int]:
    """(names of the classes and functions in the pickles of a checkpoint that torch.load does not rebuild by itself, in
    their order; whether there are tensors; the protocol of the last pickle, 0 where there is none). The pickles are
    taken apart, never run. What is damaged gives what was found before the damage."""
    names, has_tensors, protocol = {}, False, 0
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                data = archive.read(pickles[0])
            streams = [data]
        else:
            data = path.read_bytes()[:LARGEST]
            streams = _consecutive_pickles(data)
        for stream in streams:
            protocol = stream[1] if stream[:1] == b"\x80" else 0
            for name in _names_in(stream):
                names[name] = True
            has_tensors |= any(opcode.name in ("BINPERSID", "PERSID") for opcode, _, _ in pickletools.genops(stream))
    except Exception:  # what is damaged can fail in any way; the names found so far are enough
        pass
    names = [name for name in names if NAME.fullmatch(name)]  # others have no meaning: the file is damaged
    return [name for name in names if not PLAIN.fullmatch(name)], has_tensors, protocol


def _names_in(stream: bytes) -> Iterator[str]:
    """The classes and functions that a pickle names, as module.name. Later protocols take module and name from
    the stack, on which a string is put by its value or from the memo."""
    strings, memo = [], {}
    newest = None  # the string that was put last, if nothing came after it
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield argument.replace(" ", ".", 1)
            newest = None
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
            newest = None
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = newest
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = newest
        else:
            newest = memo.get(argument) if opcode.name in ("GET", "BINGET", "LONG_BINGET") else argument
            if isinstance(newest, str):
                strings.append(newest)


def _consecutive_pickles(data: bytes) -> list[bytes]:
    """Up to five pickles that follow one another: a magic number, the version of the format, facts about the machine,
    the object, and the keys of its storages."""
    streams, start = [], 0
    while len(streams) < 5 and data[start:start + 1] == b"\x80":
        try:
            length = next(at for opcode, _, at in pickletools.genops(data[start:start + (64 << 20)])
                          if opcode.name == "STOP") + 1
        except (ValueError, StopIteration):
            return [*streams, data[start:]]
        streams.append(data[start:start + length])
        start += length
    return streams


def is_dangerous(name: str) -> bool:
    """Whether a pickled class or function is none that any honest checkpoint has."""
    module, _, rest = name.partition(".")
    if module in ("builtins", "__builtin__"):
        return rest in DANGEROUS_BUILTINS
    return module in DANGEROUS


def warning(names: list[str]) -> str:
    """What to say of a file that names such functions."""
    name = next(filter(is_dangerous, names))
    return f"no honest checkpoint: loading it would call {name}. Do not load it in any other way either"


def holds_objects(path: Path, names: list[str], suffix: str) -> str:
    """What to say of a checkpoint that holds objects of the classes `names`: which, and how to save its state dict
    once. suffix: the expression that takes the state dict out of what torch.load gives."""
    modules = [name.rpartition(".")[0] for name in names]
    own = [name.removeprefix("__main__.") for name in names if name.startswith("__main__.")]
    first = "import torch" + "".join(f"; {name} = type({name!r}, (), {{}})" for name in own)
    missing = [module for module in modules if module != "__main__" and not _is_installed(module.partition(".")[0])]
    where = f", where its authors' module {missing[0]} can be imported" if missing else ""
    shown = ", ".join(names[:2]) + (f" and {len(names) - 2} more classes" if len(names) > 2 else "")
    return (f"not a file of plain tensors: it holds {shown}. Loading such objects runs code from the file. If you "
            f"trust its source, save its state dict once, in Python{where}, and give the new file:\n"
            f"{lines_of_advice(path, 'torch.load', suffix, ', weights_only=False', first)}")


def _is_installed(package: str) -> bool:
    """Whether a package is Python's own or installed, not one that lies in the current folder by the same name."""
    if package in sys.builtin_module_names or package in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    places = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    return spec is not None and any(str(spec.origin).startswith(place) for place in places)
