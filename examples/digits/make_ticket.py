"""Train a network on scikit-learn's digits and find a winning ticket by iterative pruning.

    python examples/digits/make_ticket.py                                  # the committed example
    python examples/digits/make_ticket.py --model resnet18 --out build/tickets   # for benchmarks

Writes, for each round in --keep, `<model>_round<NN>.safetensors`: the trained weights under the
mask in compressed-tensors' sparse-bitmask layout (half precision, a bit a weight), all other
tensors plain; once, `<model>_rewound.safetensors`: the dense weights at the rewinding step, which
refilled positions take; the test images; and the first training images, to calibrate on.

The search itself is `masktools.tickets.find_ticket`: Algorithm 1 of the paper. It keeps all of its
rounds in --work, in full precision; a run that was interrupted goes on from there.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from masktools.tickets import Search, find_ticket, sources
from masktools.tickets.states import State
from networks import NETWORKS
from training import Digits, digits, initial, judge, trainer

HERE = Path(__file__).parent
CALIBRATED = 240


def half(array: np.ndarray) -> np.ndarray:
    """Return arrays of floats in half precision, others as they are."""
    return array.astype(np.float16) if array.dtype.kind == "f" else array


def bitmask(name: str, weight: np.ndarray, keep: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tensors of a layer in compressed-tensors' sparse-bitmask layout.

    Without `row_offsets`: they follow from the bitmask, and for 3x3 kernels they would take
    three times the room of everything else.
    """
    return {
        f"{name}.shape": np.array(keep.shape, np.int64),
        f"{name}.compressed": half(weight)[keep],
        f"{name}.bitmask": np.packbits(keep, axis=-1, bitorder="little"),
    }


def write_round(path: Path, search: Search, number: int) -> None:
    """Write the trained weights of one round under its masks."""
    tensors: dict[str, np.ndarray] = {}
    masks = {f"{layer}.weight": mask for layer, mask in search.masks(number).items()}
    for name, array in search.trained(number).items():
        if name in masks:
            tensors |= bitmask(name, array, masks[name])
        elif not name.endswith("num_batches_tracked"):
            tensors[name] = half(array)
    save_file(tensors, path)


def write_start(path: Path, state: State) -> None:
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
    parser.add_argument("--work", type=Path, help="keeps the search; build/search/MODEL by default")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    torch.use_deterministic_algorithms(True)

    model, data = options.model, digits(NETWORKS[options.model].image_size)
    search = find_ticket(
        trainer(model, data[0], options.epochs),
        initial(model, options.seed),
        sources.magnitude(),
        total=options.epochs,
        rewind=options.rewind,
        rounds=options.rounds,
        evaluate={"test": judge(model, data[1])},
        seed=options.seed,
        folder=options.work or Path("build/search") / model,
    )
    write_start(options.out / f"{model}_rewound.safetensors", search.dense(search.rewind))
    write_images(options.out / f"{model}_test_images.safetensors", data[1])
    write_calibration_images(options.out / f"{model}_calibration_images.npy", data[0])
    for number in options.keep or [options.rounds]:
        write_round(options.out / f"{model}_round{number:02d}.safetensors", search, number)
    log = [
        {"round": found.number, "density": found.density, "accuracy": found.accuracy["test"]}
        for found in search.rounds[: options.rounds + 1]
    ]
    (options.out / f"{model}.json").write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
