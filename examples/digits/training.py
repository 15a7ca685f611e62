"""scikit-learn's digits, a training loop, and iterative magnitude pruning with rewinding.

Algorithm 1 of the paper, on a data set small enough for two cores: train, prune the 20 % of the
remaining weights with the smallest magnitude over all layers but the classifier, rewind to the
weights of an early step, repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from networks import NETWORKS

PRUNE_RATE = 0.2
BATCH = 128
TEST_IMAGES = 360


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, H, W) float32 in [0, 1] and labels (N,) int64."""

    images: Tensor
    labels: Tensor


@dataclass
class Round:
    """Masks, weights and accuracy after one round of iterative magnitude pruning."""

    number: int
    density: float
    accuracy: float
    masks: dict[str, Tensor]
    state: dict[str, Tensor] = field(repr=False)


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


def prune(network: nn.Module, masks: dict[str, Tensor], rate: float) -> dict[str, Tensor]:
    """Drop the `rate` smallest of the remaining magnitudes over all layers together."""
    weights = prunable(network)
    kept = torch.cat([weights[name].detach().abs()[masks[name]] for name in weights])
    threshold = kept.kthvalue(max(1, int(rate * len(kept)))).values
    return {name: masks[name] & (weights[name].detach().abs() > threshold) for name in weights}


def density(masks: dict[str, Tensor]) -> float:
    """Return kept / size over all layers."""
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def rewound_start(model: str, data: Digits, epochs: int, rewind: int, seed: int) -> nn.Module:
    """Return the network at the rewinding step: `rewind` epochs into a schedule of `epochs`."""
    torch.manual_seed(seed)
    network = NETWORKS[model]()
    train(network, data, {}, epochs, seed, last_epoch=rewind)
    return network


def iterative_pruning(
    network: nn.Module,
    data: tuple[Digits, Digits],
    rounds: int,
    epochs: int,
    rewind: int,
    seed: int,
) -> Iterator[Round]:
    """Yield each round of Algorithm 1: the trained state and the masks it was trained under.

    `network` starts at the rewinding step; it is changed in place.
    """
    start = snapshot(network)
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(network).items()}
    for number in range(rounds + 1):
        network.load_state_dict(start)
        train(network, data[0], masks, epochs, seed + number, first_epoch=rewind)
        yield Round(number, density(masks), accuracy(network, data[1]), masks, snapshot(network))
        masks = prune(network, masks, PRUNE_RATE)
