"""FILE.torchscript, FILE.ts, or FILE.pt: a network that `torch.jit.save` has written. Running it runs code of its
author.

The file says nothing of its input: --input states the range and, where the network takes a certain one, the size; and
--classes the names. A float32 input (N, 3, H, W) is assumed, other layouts are stated with --input.
"""
import zipfile
from pathlib import Path

import torch

from building.integrity import sha256_of_file
from evaluation.model_options import ModelOptions
from evaluation.source_kinds.source import Source, parameters_of
from models import weight_files
from models.timm_names import no_warnings
from support.errors import UserError, first_line


def load(options: ModelOptions) -> Source:
    """The network in eval mode. Raises UserError where the file is no TorchScript, or is damaged."""
    path = Path(str(options.model))
    if not is_torchscript(path):
        raise UserError(f"{path} holds no TorchScript network. A file of weights needs its network: --model timm:NAME "
                        f"--checkpoint {path}, or --model FILE.py:FUNCTION --checkpoint {path}")
    problem = weight_files.zip_problem(path)
    if problem:
        raise UserError(f"{path} is damaged ({problem}); fetch it again")
    try:
        with no_warnings():  # torch advises its authors to use torch.export
            network = torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # of many kinds
        raise UserError(f"{path}: torch.jit cannot load it ({first_line(error)[:300]})") from None
    return Source(network, sha256_of_file(path), parameters=parameters_of(network))


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of TorchScript, by the names in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False
