"""Write the files beside this script with the tools themselves; run by hand, never by the tests.

    python write_tool_files.py compressed-tensors|nncf|modelopt|nni

Each wants its own environment: compressed-tensors 0.11.0, nncf 3.4.0, nvidia-modelopt 0.47.0,
nni 3.0. Beside a tool's file lies `<file>.expected.safetensors`: the masks and the weights as the
tool itself applies them, `<layer>` and `<layer>.weight`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent


class Net(nn.Module):
    """Shapes that no wrong transposition survives, and that 2:4 sparsity takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(16, 8, (1, 3))
        self.body = nn.Sequential(nn.Conv2d(8, 6, (3, 2), bias=False), nn.ReLU())
        self.fc = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.conv1(x))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, (1, 16)).mean(1).flatten(1))


def expect(name: str, masks: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Write what a reader has to find in the file `name`."""
    tensors = {layer: mask.bool().contiguous() for layer, mask in masks.items()}
    tensors |= {
        f"{layer}.weight": weight.detach().contiguous() for layer, weight in weights.items()
    }
    save_file(tensors, HERE / f"{name}.expected.safetensors")


def layers(net: nn.Module) -> dict[str, Tensor]:
    """Return the weights of convolutions and linear layers."""
    kinds = (nn.Conv2d, nn.Linear)
    return {name: m.weight for name, m in net.named_modules() if isinstance(m, kinds)}


def compressed_tensors() -> None:
    from compressed_tensors.compressors import BitmaskCompressor, Sparse24BitMaskCompressor
    from compressed_tensors.config import BitmaskConfig, Sparse24BitMaskConfig

    net = Net()
    with torch.no_grad():
        for weight in layers(net).values():
            weight *= torch.rand_like(weight) > 0.6
    name = "compressed_tensors_bitmask.safetensors"
    save_file(dict(BitmaskCompressor(BitmaskConfig()).compress(net.state_dict())), HERE / name)
    expect(name, {n: w != 0 for n, w in layers(net).items()}, layers(net))

    fc = nn.Sequential(nn.Linear(16, 12), nn.Linear(12, 20))
    name = "compressed_tensors_24.safetensors"
    compressor = Sparse24BitMaskCompressor(Sparse24BitMaskConfig())
    stored = dict(compressor.compress(fc.state_dict(), compression_targets={"0", "1"}))
    save_file(stored, HERE / name)
    weights = dict(compressor.decompress(str(HERE / name)))
    weights = {n.removesuffix(".weight"): w for n, w in weights.items() if n.endswith("weight")}
    expect(name, {n: w != 0 for n, w in weights.items()}, weights)


def nncf() -> None:
    import nncf

    example = torch.ones(1, 16, 8, 8)
    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
    pruned = nncf.prune(Net(), mode=mode, ratio=0.6, examples_inputs=example)
    torch.save(pruned.state_dict(), HERE / "nncf.pt")
    form = nncf.StripFormat.IN_PLACE
    applied = layers(nncf.strip(pruned, strip_format=form, example_input=example))
    expect("nncf.pt", {n: w != 0 for n, w in applied.items()}, applied)


def modelopt() -> None:
    import modelopt.torch.opt as mto
    import modelopt.torch.sparsity as mts

    sparse = mts.sparsify(Net(), mode="sparse_magnitude")
    mto.save(sparse, HERE / "modelopt.pt")
    applied = layers(mts.export(sparse))
    expect("modelopt.pt", {n: w != 0 for n, w in applied.items()}, applied)


def nni() -> None:
    from nni.compression.pruning import LevelPruner

    pruner = LevelPruner(Net(), [{"op_types": ["Conv2d", "Linear"], "sparse_ratio": 0.5}])
    net, masks = pruner.compress()
    torch.save(masks, HERE / "nni_masks.pt")
    kept = {name: targets["weight"] for name, targets in masks.items()}
    expect("nni_masks.pt", kept, {})
    torch.save(net.state_dict(), HERE / "nni_wrapped.pt")
    wrappers = pruner._module_wrappers
    expect("nni_wrapped.pt", kept, {n: w.weight * kept[n] for n, w in wrappers.items()})


if __name__ == "__main__":
    torch.manual_seed(0)
    {"compressed-tensors": compressed_tensors, "nncf": nncf, "modelopt": modelopt, "nni": nni}[
        sys.argv[1]
    ]()
