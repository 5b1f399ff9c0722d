"""What a run found, as a table for people and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    values: what was measured, by contestant, in `unit`. figure: what counts, said by `figure_is`.
    limit: how large it may be ("at most") or must be ("at least"); None for what is only told. note: why there is no
    figure, or what else to know.
    """

    measure: str
    unit: str
    values: dict[str, float] = field(default_factory=dict)
    figure: float | None = None
    figure_is: str = ""
    limit: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """PASS, FAIL, NOT MEASURED, or nothing where no limit is set."""
        if self.limit is None:
            return ""
        if self.figure is None:
            return "NOT MEASURED"
        kept = self.figure >= self.limit if self.at_least else self.figure <= self.limit
        return "PASS" if kept else "FAIL"


def machine() -> dict[str, str]:
    """Describe the machine that the numbers are from."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_kib / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def table(rows: Sequence[Row], contestants: dict[str, str]) -> str:
    """Write the rows for people."""
    lines = ["machine: " + ", ".join(f"{name} {value}" for name, value in machine().items())]
    lines.append("versions: " + ", ".join(f"{name} {version}" for name, version in contestants.items()))
    for row in rows:
        lines.append("")
        lines.append(f"{row.measure} [{row.unit}]")
        lines.extend(f"  {name:<38} {value:>12,.2f}" for name, value in row.values.items())
        if row.figure_is:
            figure = "-" if row.figure is None else f"{row.figure:.2f}"
            bound = (
                f"{'at least' if row.at_least else 'at most'} {row.limit:.2g}" if row.limit is not None else "no limit"
            )
            lines.append(f"  {row.figure_is:<42} {figure:>8}   {bound}   {row.verdict}".rstrip())
        if row.note:
            lines.append(f"  {row.note}")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], contestants: dict[str, str]) -> str:
    """Write the rows for programs."""
    found = [{**asdict(row), "verdict": row.verdict} for row in rows]
    return json.dumps({"machine": machine(), "versions": contestants, "rows": found}, indent=2)
