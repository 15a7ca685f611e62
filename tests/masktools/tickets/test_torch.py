"""A training by PyTorch: a ticket that learns, masks that hold, the same bytes again."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from small_training import contents
from torch import nn
from torch.nn import functional

import masktools
from masktools import TicketError
from masktools.tickets import find_ticket, posts, retrain, sources

STEPS, REWIND, BATCH = 30, 3, 32


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 2),
        )


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other cost such small layers a hundred times their work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(seed, count):
    """Return noise with horizontal or vertical stripes, and which."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    stripes = (torch.arange(6) % 2).float()
    across = torch.where(labels[:, None, None] == 0, stripes[None, :, None], stripes[None, None])
    return (across + 0.3 * torch.randn(count, 6, 6, generator=generator))[:, None], labels


def arrays(network):
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def network_with(state):
    network = Net()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return network


def trainer(holds=True):
    def train(state, masks, start, stop, seed):
        network = network_with(state).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        keep = [
            (network.get_parameter(f"{layer}.weight"), torch.from_numpy(mask))
            for layer, mask in masks.items()
        ]
        for step in range(start, stop):
            x, labels = images(1000 * seed + step, BATCH)
            loss = functional.cross_entropy(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for weight, mask in keep * holds:
                    weight.mul_(mask)
        return arrays(network)

    return train


def accuracy(state):
    x, labels = images(7, 200)
    with torch.inference_mode():
        return (network_with(state).eval()(x).argmax(1) == labels).float().mean()


def initial():
    torch.manual_seed(0)
    return arrays(Net())


def find(folder, train, **options):
    return find_ticket(
        train, initial(), sources.magnitude(), total=STEPS, rewind=REWIND, rounds=3,
        rate=0.5, evaluate={"test": accuracy}, folder=folder, progress=False, **options,
    )  # fmt: skip


def test_a_ticket_that_learns(tmp_path):
    post = {"regroup": posts.regroup(group_rows=4, partitioner="spectral")}
    search = find(tmp_path / "a", trainer(), post=post)
    assert search.layers == ("0", "3")
    assert [round(one.density, 3) for one in search.rounds] == [1, 0.5, 0.25, 0.125]
    assert all(one.accuracy["test"] > 0.95 for one in search.rounds)
    find(tmp_path / "b", trainer(), post=post)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    grouped = retrain(
        trainer(), search.masks(3, "regroup"), search.dense(REWIND), total=STEPS, step=REWIND,
        evaluate={"test": accuracy}, folder=tmp_path / "grouped", progress=False,
    )  # fmt: skip
    assert grouped.mean("test") > 0.9
    assert grouped.density <= search.rounds[3].density


def test_the_files_are_a_state_dict_and_masks_to_convert(tmp_path):
    search = find(tmp_path, trainer())
    network = Net()
    network.load_state_dict(load_file(tmp_path / "round_03_trained.safetensors"))
    assert accuracy(arrays(network)) == pytest.approx(search.rounds[3].accuracy["test"])
    masks = masktools.load_masks(tmp_path / "round_03_masks.safetensors")
    weights = {layer: search.trained(3)[f"{layer}.weight"] for layer in masks}
    result = masktools.convert(
        masks, weights, method="regroup", partitioner="spectral", include=masks, progress=False
    )
    assert set(result.layouts) == {"0", "3"}


def test_an_optimiser_that_moves_pruned_weights_is_noticed(tmp_path):
    with pytest.raises(TicketError, match=r"round 1: .* layer '0' with \d+ pruned weights"):
        find(tmp_path, trainer(holds=False))
