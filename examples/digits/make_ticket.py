"""Train a network on scikit-learn's digits and find a winning ticket by iterative pruning.

    python examples/digits/make_ticket.py                                  # the committed example
    python examples/digits/make_ticket.py --model resnet18 --out build/tickets   # for benchmarks

Writes, for each round in --keep, `<model>_round<NN>.safetensors`: the trained weights under the
mask in compressed-tensors' sparse-bitmask layout (half precision, a bit a weight), all other
tensors plain; once, `<model>_rewound.safetensors`: the dense weights at the rewinding step, which
refilled positions take; the test images; and the first training images, to calibrate on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from networks import NETWORKS
from training import Digits, Round, digits, iterative_pruning, rewound_start, snapshot

HERE = Path(__file__).parent
CALIBRATED = 240


def half(tensor: Tensor) -> np.ndarray:
    """Return float tensors in half precision, others as they are."""
    return (tensor.half() if tensor.is_floating_point() else tensor).numpy()


def bitmask(name: str, weight: Tensor, mask: Tensor) -> dict[str, np.ndarray]:
    """Return the tensors of a layer in compressed-tensors' sparse-bitmask layout.

    Without `row_offsets`: they follow from the bitmask, and for 3x3 kernels they would take
    three times the room of everything else.
    """
    keep = mask.numpy()
    return {
        f"{name}.shape": np.array(keep.shape, np.int64),
        f"{name}.compressed": half(weight)[keep],
        f"{name}.bitmask": np.packbits(keep, axis=-1, bitorder="little"),
    }


def write_round(path: Path, found: Round) -> None:
    """Write the trained weights of one round under its masks."""
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in found.state.items():
        if name in found.masks:
            tensors |= bitmask(name, tensor, found.masks[name])
        elif not name.endswith("num_batches_tracked"):
            tensors[name] = half(tensor)
    save_file(tensors, path)


def write_start(path: Path, state: dict[str, Tensor]) -> None:
    """Write the dense weights at the rewinding step."""
    keep = {n: half(t) for n, t in state.items() if not n.endswith("num_batches_tracked")}
    save_file(keep, path)


def write_images(path: Path, test: Digits) -> None:
    """Write the test images as bytes: the data set has 17 grey levels, 0 to 16."""
    images = (test.images * 16).round().to(torch.uint8).numpy()
    save_file({"images": images, "labels": test.labels.to(torch.uint8).numpy()}, path)


def write_calibration_images(path: Path, training: Digits) -> None:
    """Write a few training images as the network takes them, without their labels."""
    np.save(path, training.images[:CALIBRATED].numpy())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=sorted(NETWORKS), default="digitsnet")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--rounds", type=int, default=7, help="pruning rounds of 20 %% each")
    parser.add_argument("--keep", type=int, nargs="*", help="rounds to write; the last by default")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rewind", type=int, default=2, help="epochs before the rewinding step")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)

    data = digits(NETWORKS[options.model].image_size)
    network = rewound_start(options.model, data[0], options.epochs, options.rewind, options.seed)
    write_start(options.out / f"{options.model}_rewound.safetensors", snapshot(network))
    write_images(options.out / f"{options.model}_test_images.safetensors", data[1])
    write_calibration_images(options.out / f"{options.model}_calibration_images.npy", data[0])
    log = []
    arguments = (options.rounds, options.epochs, options.rewind, options.seed)
    for found in iterative_pruning(network, data, *arguments):
        log.append({"round": found.number, "density": found.density, "accuracy": found.accuracy})
        print(json.dumps(log[-1]), flush=True)
        if found.number in (options.keep or [options.rounds]):
            write_round(options.out / f"{options.model}_round{found.number:02d}.safetensors", found)
    (options.out / f"{options.model}.json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
