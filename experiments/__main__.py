"""Run experiments, and write their results, pictures and tables.

python -m experiments experiments/configs/curves.toml
python -m experiments                                   # only pictures and tables, of results
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

from experiments import tables
from experiments.configuration import Configuration, ConfigurationError, read, rehearsal
from experiments.pictures import draw

DOCUMENTS, WORK = Path("docs/experiments"), Path("build/experiments")


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, nargs="*", help="configurations, TOML")
    parser.add_argument("--out", type=Path, help=f"results; {DOCUMENTS} by default")
    parser.add_argument("--work", type=Path, default=WORK, help="searches and trainings")
    parser.add_argument("--seeds", type=int, help="instead of the configuration's")
    parser.add_argument("--rehearse", action="store_true", help="the same in small: does it run?")
    options = parser.parse_args(arguments)
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("masktools").setLevel(logging.WARNING)
    out = options.out or (WORK / "rehearsals" if options.rehearse else DOCUMENTS)
    try:
        for path in options.config:
            configuration = read(path)
            if options.rehearse:
                configuration = rehearsal(configuration)
            if options.seeds is not None:
                configuration = replace(configuration, seeds=options.seeds)
            _run(path.stem, configuration, out, options.work)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in sorted(out.glob("*.json")):
        draw(json.loads(path.read_text(encoding="utf-8")), path.with_suffix(".png"))
    page = out / "README.md"
    if page.exists():
        page.write_text(tables.rendered(page.read_text(encoding="utf-8"), out), encoding="utf-8")
    return 0


def _run(name: str, configuration: Configuration, out: Path, work: Path) -> None:
    # Asked for by PyTorch where a GPU is to compute the same twice; read when the first one is.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from benchmarks.record import environment
    from experiments.runner import run

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # another number sums in another order, and ends in other weights
    where = environment(["torch", "numpy", "scikit-learn", "kahypar"])
    del where["load_before"]
    results = {"environment": where, **run(configuration, work)}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    (out / f"{name}.json").write_text(text, encoding="utf-8")
    print("\n".join(tables.table(results)))


if __name__ == "__main__":
    sys.exit(main())
