"""CUDA graphs of the passes in training: when they are used, and that recording leaves the network as it is. A stand-in
records nothing and counts calls; what the graphs compute is tested on a card (test_cuda.py)."""
import copy

import pytest
import torch
from torch import nn

from compute.devices import connect
from compute.graphs import GraphedNetwork, set_up
from conftest import ON_CUDA
from models.detector import DetectorNetworks
from models.dmue import DMUE
from models.resnet import ResNet18
from models.rul import RUL
from models.scn import SCN
from models.swinv2 import TimmModel
from training.options import MachineOptions

COUNT, SIZE = 4, 32
if ON_CUDA:
    pytest.skip("a rehearsal for machines without a card", allow_module_level=True)


@pytest.fixture
def starts(monkeypatch):
    """The shapes of the images for which the stand-in was started."""
    shapes = []

    def stand_in(passes, inputs, allow_unused_input):
        plain = passes.forward
        for _ in range(3):
            plain(*inputs)

        def start(*inputs):
            shapes.append(tuple(inputs[0].shape))
            return plain(*inputs)

        passes.forward = start

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", stand_in)
    return shapes


def recorded(network):
    graphed = GraphedNetwork(network)
    graphed.record(connect("32-true"), network.step_inputs(COUNT))
    return graphed.train()


@pytest.mark.parametrize("build", [ResNet18, SCN, RUL, DMUE])
def test_recording_leaves_the_network_as_it_is(starts, build):
    network = build(8, SIZE)
    before = copy.deepcopy(network.state_dict())
    recorded(network)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_graphs_are_started_for_training_steps_of_their_shape(starts):
    graphed = recorded(ResNet18(8, SIZE))
    images = torch.zeros(COUNT, 3, SIZE, SIZE, dtype=torch.uint8)
    graphed(images).sum().backward()
    assert starts == [(COUNT, 3, SIZE, SIZE)]
    graphed(images[:2]).sum().backward()
    with torch.no_grad():
        graphed(images)
    graphed.eval()(images)
    assert len(starts) == 1
    graphed.train()(images).sum().backward()
    assert len(starts) == 2


def test_a_second_call_in_a_step_does_not_overwrite_the_first(starts):
    graphed = recorded(SCN(8, SIZE))
    images = torch.zeros(COUNT, 3, SIZE, SIZE, dtype=torch.uint8)
    first, second = graphed(images), graphed(images)
    assert len(starts) == 1
    (first[0] + second[0]).sum().backward()
    graphed(images)
    assert len(starts) == 2


def test_nothing_is_recorded_without_a_card(starts):
    network = ResNet18(8, SIZE)
    optimizer = torch.optim.Adam(network.parameters())
    wrapped, _ = set_up(connect("32-true"), network, optimizer, MachineOptions(), COUNT)
    assert wrapped.module is network


def test_networks_that_wait_or_gain_nothing_are_not_recorded():
    assert DMUE(8, SIZE, experts="split").step_inputs(COUNT) is None
    assert TimmModel(8, SIZE, "test_resnet").step_inputs(COUNT) is None
    assert DetectorNetworks(8, SIZE, 1, 10, "resnet18").step_inputs(COUNT) is None


def test_the_maximum_before_relu_changes_nothing():
    """Values and gradients of the network are those of torchvision's order, byte by byte."""
    torch.manual_seed(0)
    network = ResNet18(8, SIZE)
    images = torch.randint(256, (COUNT, 3, SIZE, SIZE), dtype=torch.uint8)
    results = []
    for features in (network.features, lambda image: network.backbone(network.normalize(image))):
        network.zero_grad()
        values = features(images)
        (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum().backward()
        results.append([values.detach(), *(parameter.grad for parameter in network.backbone.parameters())])
    assert all(map(torch.equal, *results))
    assert isinstance(network.backbone.relu, nn.ReLU)
