"""Write the tables of results in the documents anew, from the records.

    python -m benchmarks.tables            # rewrites what stands between the marks
    python -m benchmarks.tables --check    # only says which documents are stale

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.tables import ROOT, rendered, stale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    old = stale()
    for name in old:
        print(f"{name}: {'stale' if options.check else 'written'}")
        if not options.check:
            path = ROOT / name
            path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(bool(old) and options.check)


if __name__ == "__main__":
    main()
