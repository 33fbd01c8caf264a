"""Inference on a split: the logits of many images, divided among the processes.

The images are those of a data set. evaluate.py, which scores the images of built sets, has its own inference:
evaluation/inference.py.
"""
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from compute.batches import load_batches


@torch.no_grad()
def predict(fabric: Any, model: torch.nn.Module, images: Any, batch_size: int, workers: int,
            rows: Sequence[int] | None = None) -> np.ndarray:
    """Logits of all images in their order, float32 (N, K), on every process. Sets the model to eval mode.

    images: as for `load_batches`. rows: the images to predict, in any order; None: all. The result is in the
    order of their numbers. With several processes, each takes every world_size-th image, and none is taken twice.
    batch_size: images of one process at once.
    """
    model.eval()
    own = list(range(len(images)) if rows is None else rows)[fabric.global_rank::fabric.world_size]
    batches = [own[start:start + batch_size] for start in range(0, len(own), batch_size)]
    own_logits = []  # (indices, logits) of this process's batches
    with closing(load_batches(fabric, images, batches, workers)) as loader:
        for image, index in loader:
            own_logits.append((index.cpu().numpy(), model(image).float().cpu().numpy()))
    logits_by_process = [own_logits]
    if fabric.world_size > 1:
        logits_by_process = [own_logits] * fabric.world_size
        torch.distributed.all_gather_object(logits_by_process, own_logits)
    indices = np.concatenate([index for pairs in logits_by_process for index, _ in pairs])
    logits = np.concatenate([values for pairs in logits_by_process for _, values in pairs])
    return logits[np.argsort(indices)]
