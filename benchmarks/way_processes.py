"""Run each way of doing the same work in its own process, so that times and peak memory are those of one way.

A benchmark starts itself again with CHILD_OPTION. This child process builds its model, and measures a step whenever the
parent asks for one. The steps of the ways alternate, so that changes of the machine's speed affect all ways alike.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from gemma_lisa.checkpoints.training_record import commit
from gemma_lisa.interfaces.command_line import ArgumentParser, positive
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.whole_files import check_writable

CHILD_OPTION = "--child"  # its value is JSON: the way, the work and the options
REPLY = "measured: "  # start of the lines of a child that are results
REPEATS = 3
SECONDS_TO_END = 10  # that a child process without work gets before it is ended
NUM_WARM_UPS = {"cuda": 1}  # steps before the measurement, by type of device
PRODUCT_SIDE = {"cuda": 8192}  # of the matrices of `matmul_peak`, by type of device
PRODUCT_SIDE_CPU = 2048


class Meter:
    """Measures seconds and memory: CPU seconds and resident memory, or seconds and allocated memory of a GPU.

    Args:
        device: torch device.
        is_cpu_time: on a CPU, measure CPU seconds, which other programs hardly change.
    """

    def __init__(self, device: str, is_cpu_time: bool = True):
        self.device = torch.device(device)
        self.is_gpu = self.device.type == "cuda"
        self.is_cpu_time = is_cpu_time and not self.is_gpu
        self.before = self._size()

    def now(self) -> float:
        """Return the seconds on a clock."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.is_cpu_time else time.perf_counter()

    def peak_mb(self) -> float:
        """Return the peak memory in MB in addition to that at the creation of this object."""
        if self.is_gpu:
            return (torch.cuda.max_memory_allocated(self.device) - self.before) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - self.before / 2**20

    def time(self, action: Callable[[], Any]) -> float:
        """Return the seconds of an action."""
        start = self.now()
        action()
        return self.now() - start

    def _size(self) -> int:
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        return psutil.Process().memory_info().rss


def matmul_peak(meter: Meter, dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the FLOP per second of the fastest of several products of large matrices."""
    side = PRODUCT_SIDE.get(meter.device.type, PRODUCT_SIDE_CPU)
    first, second = (torch.randn(side, side, device=meter.device).to(dtype) for _ in range(2))
    first @ second  # loads the kernel
    seconds = min(meter.time(lambda: first @ second) for _ in range(repeats))
    return 2 * side**3 / seconds


# ---------------------------------------------------------------------------------------------------------------------
# Child and parent
# ---------------------------------------------------------------------------------------------------------------------
def serve(measure: Callable[[], dict[str, Any]]) -> None:
    """Print a result as JSON for each line of standard input. The child process calls it when its model is built."""
    print(f"{REPLY}{{}}", flush=True)
    for _ in sys.stdin:
        print(f"{REPLY}{json.dumps(measure())}", flush=True)


class WayProcess:
    """A child process of a benchmark. As a context manager, it is ended at the exit."""

    def __init__(self, program: str, given: dict[str, Any]):
        self._command = [sys.executable, program, CHILD_OPTION, json.dumps(given)]

    def __enter__(self):
        self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()  # waits until the model is built
        return self

    def measure(self) -> dict[str, Any]:
        """Return the result of one step."""
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return self._read()

    def __exit__(self, *_):
        self._child.stdin.close()  # the child then ends by itself, if it is not in a step
        try:
            self._child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._child.terminate()
            self._child.wait()
        self._child.stdout.close()

    def _read(self) -> dict[str, Any]:
        for line in self._child.stdout:
            if line.startswith(REPLY):
                return json.loads(line.removeprefix(REPLY))
        raise RuntimeError(f"A child process ended with exit code {self._child.wait()}. Its error is above.")


def compare(program: str, cases: list[dict[str, Any]], repeats: int) -> list[dict[str, Any]]:
    """Measure the cases in alternating steps.

    Args:
        program: file of the benchmark.
        cases: what each child process gets. All child processes exist at the same time.
        repeats: number of steps of each.

    Returns:
        for each case, the medians of its numbers; the maximum of "peak_mb"; under "all", the result of every step.
    """
    warm_ups = NUM_WARM_UPS.get(torch.device(cases[0]["work"]["device"]).type, 0)
    with ExitStack() as stack:
        children = [stack.enter_context(WayProcess(program, case)) for case in cases]
        measured = [[child.measure() for child in children] for _ in range(repeats + warm_ups)]
    results = []
    for steps in zip(*measured[warm_ups:], strict=True):
        numbers = {name: median(step[name] for step in steps) for name in steps[0] if name != "peak_mb"}
        results.append({**numbers, "peak_mb": max(step["peak_mb"] for step in steps), "all": list(steps)})
    return results


# ---------------------------------------------------------------------------------------------------------------------
# Options and results
# ---------------------------------------------------------------------------------------------------------------------
def way_parser(description: str) -> ArgumentParser:
    """Return a parser with the options of every benchmark of ways."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=REPEATS, help=f"number of repeats (default: {REPEATS})")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--results", type=Path, help="Markdown file to append the tables to")
    parser.add_argument("--ways", default="ours,lisa", help="ways to measure, with commas (default: ours,lisa)")
    parser.add_argument(CHILD_OPTION, help=argparse.SUPPRESS)
    return parser


def read_ways(text: str, known: tuple[str, ...]) -> list[str]:
    """Return the ways of an option --ways, each once. Raises UsageError for others than the known ones."""
    ways = text.split(",")
    if len(set(ways)) < len(ways) or not set(ways) <= set(known):
        raise UsageError(f"--ways must be one or more of {','.join(known)}, separated by commas, got {text}.")
    return ways


def check_outputs(args: argparse.Namespace) -> None:
    """Check before the measurement that --output and --results can be written. Raises UsageError or ValueError."""
    for name, suffix in (("output", ".json"), ("results", ".md")):
        if (path := getattr(args, name)) is None:
            continue
        if path.suffix != suffix:
            raise UsageError(f"--{name} must be a {suffix} file, got {path}.")
        check_writable(path, f"--{name}")


def header(program: str, arguments: list[str], device: str) -> dict[str, Any]:
    """Return command, commit, date and machine of a measurement."""
    return {
        "command": f"python benchmarks/{Path(program).name} {' '.join(arguments)}".strip(),
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {processor_name()}",
    }


def processor_name() -> str:
    """Return the name of the CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def headline(found: dict[str, Any], repeats: int) -> str:
    """Return the line above a table in Markdown. found: output of `header`."""
    times = "seconds" if "CPU," not in found["machine"] else "CPU seconds, one thread"
    return (
        f"\n`{found['command']}` at {found['commit']}, {found['date']}, torch {found['torch']}, {found['machine']}; "
        f"{times}, medians of {repeats}.\n"
    )


def table(columns: list[str], rows: list[list[Any]]) -> list[str]:
    """Return the lines of a table in Markdown. Numbers get three significant digits; None is a dash."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
        return "–" if value is None else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]
