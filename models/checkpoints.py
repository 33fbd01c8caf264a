"""Tensors on disk: whole or not at all, and never anything but tensors and plain values."""
import sys

import torch

import cli


def write(path, state):
    """torch.save of dicts, lists, tensors and plain values; equal states give equal bytes."""
    def plain(value):  # pickle looks at which strings are one object: make equal ones the same
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(plain, value))
        return sys.intern(value) if isinstance(value, str) else value
    cli.write_whole(path, lambda file: torch.save(plain(state), file))


def read(source, device="cpu"):
    """The inverse, from a path or an open file. Whatever is damaged or more than tensors can raise anything."""
    return torch.load(source, map_location=device, weights_only=True)
