"""scikit-learn's digits, a training loop, and what `masktools.tickets` needs of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from masktools.tickets.states import Masks, State
from masktools.tickets.training import Train
from networks import NETWORKS

BATCH = 128
TEST_IMAGES = 360


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, H, W) float32 in [0, 1] and labels (N,) int64."""

    images: Tensor
    labels: Tensor


def digits(image_size: int) -> tuple[Digits, Digits]:
    """Return (training, test) digits.

    The last 360 images are the test set: unshuffled, so that its writers are not in the training
    set.
    """
    source = load_digits()
    images = torch.from_numpy(source.images.astype(np.float32) / 16)[:, None]
    if image_size != 8:
        images = functional.interpolate(images, size=(image_size, image_size), mode="bilinear")
    labels = torch.from_numpy(source.target.astype(np.int64))
    train, test = slice(None, -TEST_IMAGES), slice(-TEST_IMAGES, None)
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])


def prunable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of every convolution, by parameter name; heads are never pruned (paper, 4.1)."""
    return {
        f"{name}.weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    }


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to one eighth of its size in both directions."""
    reach = images.shape[-1] // 8
    padded = functional.pad(images, (reach,) * 4)
    size = images.shape[-1]
    corner = torch.randint(0, 2 * reach + 1, (len(images), 2), generator=generator)
    grid = torch.arange(size)
    rows = (corner[:, :1] + grid)[:, None, :, None]
    columns = (corner[:, 1:] + grid)[:, None, None, :]
    return padded[torch.arange(len(images))[:, None, None, None], 0, rows, columns]


def apply_masks(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set the pruned weights to zero, in place."""
    with torch.no_grad():
        for name, weight in prunable(network).items():
            if name in masks:
                weight.mul_(masks[name])


def train(
    network: nn.Module,
    data: Digits,
    masks: dict[str, Tensor],
    epochs: int,
    seed: int,
    first_epoch: int = 0,
    last_epoch: int | None = None,
) -> None:
    """SGD with momentum 0.9, rate 0.1 (x0.1 at half and three quarters), pruned weights kept 0."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    network.train()
    apply_masks(network, masks)
    for epoch in range(first_epoch, epochs if last_epoch is None else last_epoch):
        rate = 0.1 * 0.1 ** ((epoch >= epochs // 2) + (epoch >= epochs * 3 // 4))
        for group in optimizer.param_groups:
            group["lr"] = rate
        for batch in torch.randperm(len(data.images), generator=generator).split(BATCH):
            if len(batch) < BATCH:  # batch statistics of a handful of images are noise
                continue
            logits = network(shifted(data.images[batch], generator))
            loss = functional.cross_entropy(logits, data.labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            apply_masks(network, masks)


def accuracy(network: nn.Module, data: Digits) -> float:
    """Return the share of images classified rightly, in [0, 1]."""
    network.eval()
    with torch.inference_mode():
        return float((network(data.images).argmax(1) == data.labels).float().mean())


def initial(model: str, seed: int) -> State:
    """Return a network before training, as arrays."""
    torch.manual_seed(seed)
    return arrays(NETWORKS[model]())


def arrays(network: nn.Module) -> State:
    """Return a copy of every parameter and buffer: the state that `masktools.tickets` handles."""
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def network_with(model: str, state: State) -> nn.Module:
    """Return a network with the parameters and buffers of a state."""
    network = NETWORKS[model]()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return network


def trainer(model: str, data: Digits, epochs: int) -> Train:
    """Return the training that `masktools.tickets` calls. Its steps are epochs."""

    def train_state(state: State, masks: Masks, start: int, stop: int, seed: int) -> State:
        network = network_with(model, state)
        keep = {f"{layer}.weight": torch.from_numpy(mask) for layer, mask in masks.items()}
        train(network, data, keep, epochs, seed, first_epoch=start, last_epoch=stop)
        return arrays(network)

    return train_state


def judge(model: str, data: Digits) -> Callable[[State], float]:
    """Return what tells the accuracy of a state on some images."""
    return lambda state: accuracy(network_with(model, state), data)
