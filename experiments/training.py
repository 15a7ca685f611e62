"""The training that `masktools.tickets` calls, and the accuracy of what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.data import PARTS, Parts
from experiments.networks import NETWORKS
from masktools.tickets.states import Masks, State

_AT_ONCE = 512  # images that are evaluated together


@dataclass(frozen=True)
class Task:
    """A network and its training, by states: every parameter and buffer as arrays.

    SGD with momentum 0.9, weight decay 0.0002, rate 0.1, a tenth of it from half of the steps on
    and a hundredth from three quarters on; images are moved by up to an eighth of their size.

    Parameters
    ----------
    network : str
        A key of `experiments.networks.NETWORKS`.
    steps, batch : int
        Of the whole schedule; images in a step.
    data : dict of Images
        By part, where the network is to run.
    """

    network: str
    steps: int
    batch: int
    data: Parts

    def initial(self, seed: int) -> State:
        """Return the network before training."""
        torch.manual_seed(seed)
        return _arrays(self._network())

    def module(self, state: State) -> nn.Module:
        """Return the network with the parameters and buffers of a state."""
        network = self._network()
        network.load_state_dict(
            {name: torch.from_numpy(array.copy()) for name, array in state.items()}
        )
        return network.to(self._images.device)

    def train(self, state: State, masks: Masks, start: int, stop: int, seed: int) -> State:
        """Train from one step of the schedule to another; pruned weights stay zero."""
        network, data = self.module(state).train(), self.data["training"]
        device = data.images.device
        keep = [
            (network.get_parameter(f"{n}.weight"), torch.from_numpy(m).to(device))
            for n, m in masks.items()
        ]
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
        generator = torch.Generator().manual_seed(seed)
        for step in range(start, stop):
            rate = 0.1 * 0.1 ** ((step >= self.steps // 2) + (step >= self.steps * 3 // 4))
            optimizer.param_groups[0]["lr"] = rate
            drawn = torch.randperm(len(data.images), generator=generator)[: self.batch]
            logits = network(_moved(data.images[drawn], generator))
            loss = functional.cross_entropy(logits, data.labels[drawn])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for weight, mask in keep:
                    weight.mul_(mask)
        return _arrays(network)

    def evaluations(self) -> dict[str, Callable[[State], float]]:
        """Return what tells the accuracy of a state: on the validation and on the test set."""
        return {part: partial(self.accuracy, part=part) for part in PARTS[1:]}

    def accuracy(self, state: State, part: str) -> float:
        """Return the share of images that a state classifies rightly."""
        data, network = self.data[part], self.module(state).eval()
        with torch.inference_mode():
            classes = [network(images).argmax(1) for images in torch.split(data.images, _AT_ONCE)]
        return int((torch.cat(classes) == data.labels).sum()) / len(data.labels)

    def estimated_again(self, state: State) -> State:
        """Return a state whose statistics of BatchNorm are those of the training images."""
        network = self.module(state).train()
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.reset_running_stats()
                part.momentum = None  # the mean over all batches
        with torch.no_grad():
            for images in torch.split(self._images, self.batch):
                network(images)
        return _arrays(network)

    @property
    def _images(self) -> Tensor:
        return self.data["training"].images

    def _network(self) -> nn.Module:
        classes = int(self.data["training"].labels.max()) + 1
        return NETWORKS[self.network](self.shape[0], classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one image: (channels, height, width)."""
        return tuple(self._images.shape[1:])

    def some_of_each(self, each: int) -> tuple[Tensor, Tensor]:
        """Return the first `each` training images of every class, and their labels."""
        data = self.data["training"]
        chosen = [
            torch.nonzero(data.labels == label)[:each, 0]
            for label in range(int(data.labels.max()) + 1)
        ]
        drawn = torch.cat(chosen)
        return data.images[drawn], data.labels[drawn]


def _arrays(network: nn.Module) -> State:
    return {
        name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()
    }


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to an eighth of its size in both directions."""
    count, _, _, size = images.shape
    reach = size // 8
    padded, grid = functional.pad(images, (reach,) * 4), torch.arange(size)
    corner = torch.randint(0, 2 * reach + 1, (count, 2), generator=generator)
    rows = (corner[:, :1] + grid)[:, None, :, None]
    columns = (corner[:, 1:] + grid)[:, None, None, :]
    channels = torch.arange(images.shape[1])[:, None, None]
    return padded[torch.arange(count)[:, None, None, None], channels, rows, columns]
