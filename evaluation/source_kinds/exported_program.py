"""FILE.pt2, a network that `torch.export.save` has written. Loading and running it runs code of its author.

Size, channels, layout, the type of the numbers and the batch come from the shape that it was exported with; open
dimensions take the set's. --input has to say the range of a float input, and --classes the names.
"""
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from building.integrity import sha256_of_file
from evaluation.model_options import ModelOptions
from evaluation.network_input import BatchesOf
from evaluation.source_kinds.source import Source, fields_of_shape, parameters_of
from support.errors import UserError, first_line


END_OF_ARCHIVE = 22  # bytes of the record that ends a ZIP archive


class ExportedNetwork(torch.nn.Module):
    """An exported program, on the device that it is called on: its constants name the one that it was exported on."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.programs = {"cpu": program.module()}
        self.program = program

    def forward(self, inputs: torch.Tensor) -> Any:
        """What the program gives, logits or probabilities (N, K) where it is usable. inputs: (N, channels, H, W) or
        (N, H, W, channels), float32 or uint8, as it was exported."""
        device = inputs.device
        if str(device) not in self.programs:
            from torch.export.passes import move_to_device_pass

            self.programs[str(device)] = move_to_device_pass(self.program, str(device)).module()
        return self.programs[str(device)](inputs)


def is_whole_archive(path: Path) -> bool:
    """Whether a file is a ZIP archive that ends as torch.export writes it: without a comment. An incomplete one may
    look whole to `zipfile`, since weights are archives in the archive."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - END_OF_ARCHIVE))
        return file.read(4) == b"PK\x05\x06" and zipfile.is_zipfile(path)


def load(options: ModelOptions) -> Source:
    """The network. Raises UserError where the file is damaged or takes no pictures."""
    path = Path(str(options.model))
    if not is_whole_archive(path):  # torch would print a traceback of its own before it raises
        raise UserError(f"{path} is no file of torch.export.save: it is empty, incomplete, or of another kind. Copy or "
                        f"export it again")
    try:
        program = torch.export.load(path)
    except Exception as error:  # of many kinds
        raise UserError(f"{path}: torch.export cannot load it ({first_line(error)[:300]}). A file of another version "
                        f"of torch has to be exported again") from None
    names = program.graph_signature.user_inputs
    if len(names) != 1:
        raise UserError(f"{path} has {len(names)} inputs; a network with one, the pictures, is needed")
    tensor = next(node.meta["val"] for node in program.graph.nodes if node.name == names[0])
    shape = [length if isinstance(length, int) else None for length in tensor.shape]
    if tensor.dtype not in (torch.float32, torch.uint8):
        raise UserError(f"{path} takes {tensor.dtype}, not pictures of float32 or uint8 numbers")
    fixed, channels = fields_of_shape(shape, str(path))
    fixed["dtype"] = str(tensor.dtype).removeprefix("torch.")
    network: torch.nn.Module = ExportedNetwork(program)
    if shape[0] is not None:
        network = BatchesOf(network, shape[0])
    return Source(network, sha256_of_file(path), fixed=fixed, channels=channels,
                  parameters=parameters_of(program))
