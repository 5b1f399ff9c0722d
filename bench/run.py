"""Measure this router against nginx, HAProxy and SMG in one run: `python bench/run.py [measure ...]`."""

import argparse
import sys
import tempfile
from pathlib import Path

from crowd import crowd
from measures import MEASURES, Run
from processes import Failed
from refit import refit
from report import Row, as_json, table

EVERY = {**MEASURES, "refit": refit, "crowd": crowd}


def main() -> int:
    """Run the measures; 1 when one failed or could not be made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measure", nargs="*", metavar="measure", help=f"any of {', '.join(EVERY)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant is measured (5)")
    parser.add_argument("--smg", help="path of the smg program; installed into .venv/smg when there is none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there as well")
    arguments = parser.parse_args()
    if unknown := set(arguments.measure) - set(EVERY):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="router-bench-") as folder:
        run = Run(Path(folder), arguments.rounds, arguments.smg, versions)
        for name in arguments.measure or EVERY:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                rows += EVERY[name](run)
            except Failed as why:
                rows.append(Row(name, "-", limit=0, note=str(why)))
    print(table(rows, versions))
    if arguments.json is not None:
        arguments.json.write_text(as_json(rows, versions) + "\n")
    return int(any(row.verdict in {"FAIL", "NOT MEASURED"} for row in rows))


if __name__ == "__main__":
    sys.exit(main())
