"""The passes of a network in training as CUDA graphs: recorded once, then started as a whole in every step.

A training step of a ResNet-18 is some 380 operations on the GPU. To start them one by one takes a core of the processor
about as long as the GPU takes to compute them, so the GPU waits wherever that core is late. CUDA can record the
operations of a pass, and start all of them by one call; they are the same operations, so the results are the same
(torch.cuda.make_graphed_callables; https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/).
"""
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compute.devices import optimised


def set_up(fabric: Any, model: Any, optimizer: torch.optim.Optimizer, machine: Any,
           count: int) -> tuple[nn.Module, Any]:
    """Network and optimizer for training, on the device and wrapped by Fabric. On a single GPU the passes for steps of
    `count` images are recorded, where the network can be recorded and `machine` does not decline it.

    model: `models.Model`, or another module with `step_inputs`. machine: `training.options.MachineOptions`."""
    prepared = optimised(model, machine)
    inputs = None
    if fabric.device.type == "cuda" and fabric.world_size == 1 and not machine.compile and not machine.no_cuda_graphs:
        inputs = model.step_inputs(count)
    if inputs is None:
        return fabric.setup(prepared, optimizer)
    graphed = GraphedNetwork(prepared)
    wrapped = fabric.setup(graphed, optimizer)
    graphed.record(fabric, tuple(tensor.to(fabric.device) for tensor in inputs))
    return wrapped


class GraphedNetwork(nn.Module):
    """A network, and recordings of its forward and backward pass in training.

    `record` makes them. Until then, in eval mode and for inputs of other shapes, the network is called as it is. The
    passes use the same memory in every step, so the outputs of a step are overwritten by the next one.
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._start: Callable[..., Any] | None = None  # starts the recorded passes
        self._shapes: list[torch.Size] = []  # of the inputs that they were recorded with
        self._awaits_backward = False

    def record(self, fabric: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """Record both passes under the precision of `fabric`. Weights, gradients and buffers stay as they are. torch's
        generator of the device moves on, and nothing else may use the device meanwhile.

        inputs: of `forward` in training, on the device. Their shapes count, their values do not.
        """
        passes = _Passes(self.network).train()
        buffers = list(self.network.buffers())
        before = [buffer.clone() for buffer in buffers]
        # torch warns that gradients are added up in the stream of the recording. That costs the GPU a short wait, and
        # changes no result.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        with fabric.autocast(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # cuBLAS says that it starts in a thread of the backward pass
            keeps_casts = torch.is_autocast_cache_enabled()
            torch.set_autocast_cache_enabled(False)  # a cast kept from before would never see the weights change
            try:
                torch.cuda.make_graphed_callables(passes, inputs, allow_unused_input=True)
            finally:
                torch.set_autocast_cache_enabled(keeps_casts)
                with torch.no_grad():
                    torch._foreach_copy_(buffers, before)
        self._start, self._shapes = passes.forward, [tensor.shape for tensor in inputs]

    def forward(self, *inputs: torch.Tensor) -> Any:
        """What the network returns for these inputs."""
        is_recorded = self._start is not None and [tensor.shape for tensor in inputs] == self._shapes
        # Between the two passes of a step its memory is in use: a second call would overwrite it.
        if not is_recorded or not self.training or not torch.is_grad_enabled() or self._awaits_backward:
            return self.network(*inputs)
        outputs = self._start(*inputs)
        self._awaits_backward = True
        first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        first.register_hook(self._begin_backward)
        return outputs

    def _begin_backward(self, gradient: torch.Tensor) -> None:
        self._awaits_backward = False


class _Passes(nn.Module):
    """A module around a network: torch replaces the method `forward` of the module that it records, and the network
    has to keep its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.network(*inputs)
