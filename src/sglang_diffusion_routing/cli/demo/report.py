"""Show the demo to whoever watches: steps, a progress bar, and the tables at the end.

On a terminal there is colour and a bar; anywhere else plain lines, with the progress at each quarter.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sglang_diffusion_routing.cli.demo.checks import Group, Verdict
from sglang_diffusion_routing.cli.processes import Usage

LABEL_CHARS = 10


@dataclass(frozen=True, slots=True)
class Timed:
    """One rollout with its duration."""

    groups: Sequence[Group]
    seconds: float

    @property
    def samples(self) -> int:
        """Count the samples."""
        return sum(len(group) for group in self.groups)

    def busy_s(self, worker: str) -> float:
        """Add up a worker's time on this rollout; each reply states the time of all its samples."""
        return sum(group[0].seconds for group in self.groups if group[0].worker == worker)

    def made_by(self, worker: str) -> int:
        """Count a worker's samples."""
        return sum(len(group) for group in self.groups if group[0].worker == worker)

    @property
    def reward(self) -> float:
        """Give the mean reward."""
        return sum(sample.reward for group in self.groups for sample in group) / self.samples


class Report:
    """Writes to a console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def step(self, label: str, text: str) -> None:
        """Say what has been done: a label and a sentence, which a narrow terminal gets in several indented lines."""
        if not self._console.is_terminal:
            self._console.print(Text(f"{label:<{LABEL_CHARS}} {text}"), soft_wrap=True)
            return
        line = Table.grid(padding=(0, 1))
        line.add_column(width=LABEL_CHARS, style="bold")
        line.add_column()
        line.add_row(Text(label), Text(text))
        self._console.print(line)

    @contextmanager
    def progress(self, label: str, total: int, per_tick: int) -> Iterator[Callable[[], None]]:
        """Show how far `total` samples have come; each call of what this gives means `per_tick` more."""
        if not self._console.is_terminal:
            yield self._quarters(label, total, per_tick)
            return
        columns = (
            TextColumn(label.ljust(LABEL_CHARS), style="bold"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda: bar.advance(task, per_tick)

    def _quarters(self, label: str, total: int, per_tick: int) -> Callable[[], None]:
        done = 0

        def tick() -> None:
            nonlocal done
            before, done = done, done + per_tick
            if done < total and before * 4 // total < done * 4 // total:
                self.step(label, f"{done} of {total} samples")

        return tick

    def workers(self, names: dict[str, str], speeds: Sequence[float], rollouts: Sequence[Timed]) -> None:
        """Show what each worker did; `names` maps its URL to its letter."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("worker")
        table.add_column("speed", justify="right")
        for number in range(1, len(rollouts) + 1):
            table.add_column(f"made {number}", justify="right")
            table.add_column(f"busy {number}", justify="right")
        for (url, name), speed in zip(names.items(), speeds, strict=True):
            cells = [name, f"{speed:g}"]
            for rollout in rollouts:
                cells += [str(rollout.made_by(url)), f"{rollout.busy_s(url) / rollout.seconds:.0%}"]
            table.add_row(*cells)
        self._console.print(table)

    def places(self, names: dict[str, str], number: int, rollout: Timed) -> None:
        """Show where each prompt's samples ran: one letter a prompt, in the order of the file."""
        letters = "".join(names.get(group[0].worker, "?") for group in rollout.groups)
        self.step(f"places {number}", " ".join(letters[at : at + 12] for at in range(0, len(letters), 12)))

    def cost(self, before: Usage, after: Usage, requests: int, megabytes: float) -> None:
        """Show what the router itself used for `requests` requests whose replies had `megabytes` MB."""
        self.step(
            "router",
            f"{requests} requests, {megabytes:.0f} MB: {after.cpu_s - before.cpu_s:.2f} s of CPU; "
            f"memory {before.rss_bytes / 1e6:.0f} MB before, {after.rss_bytes / 1e6:.0f} after, "
            f"{after.peak_rss_bytes / 1e6:.0f} at most",
        )

    def small_cost(self, before: Usage, after: Usage, requests: int) -> None:
        """Show what the router used for each of `requests` small requests."""
        each_us = (after.cpu_s - before.cpu_s) * 1e6 / requests
        self.step("", f"{requests} small requests: {each_us:.0f} µs of CPU each")

    def verdict(self, verdict: Verdict) -> None:
        """Show which claims hold."""
        for sentence in verdict.held:
            self._console.print(Text("  ✓ ", style="green").append(sentence, style="default"), soft_wrap=True)
        for sentence in verdict.broken:
            self._console.print(Text("  ✗ ", style="bold red").append(sentence, style="default"), soft_wrap=True)


def write_samples(path: Path, names: dict[str, str], rollouts: Sequence[Timed]) -> None:
    """Write one line of CSV for each sample: where it ran, on which weights, and what it earned."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["rollout", "prompt", "sample", "seed", "worker", "url", "weight_version", "transformer_sha256",
             "reward", "log_prob", "queue_ms", "prompt_text"]
        )  # fmt: skip
        for number, rollout in enumerate(rollouts, 1):
            for sample in (sample for group in rollout.groups for sample in group):
                writer.writerow(
                    [number, sample.prompt + 1, sample.number + 1, sample.seed, names.get(sample.worker, "?"),
                     sample.worker, sample.version, sample.weights, f"{sample.reward:.4f}",
                     f"{float(sample.log_probs.sum()):.3f}", f"{sample.queue_ms:.1f}", sample.text]
                )  # fmt: skip
