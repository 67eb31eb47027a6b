"""The processes that answer the questions of an evaluation together, started by torchrun or accelerate launch."""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from gemma_lisa.safety.errors import UsageError

# Variables in which launchers give the number of processes
STARTED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
# Variables of torchrun and accelerate launch with which processes find each other
_MEETING = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
# The processes wait for the slowest one, whose questions can take hours
_LONGEST_WAIT = timedelta(days=7)
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Processes:
    """The processes of an evaluation, or this one alone.

    Args:
        rank: number of this process.
        count: number of processes.
        local_rank: number of this process on its machine.
        store: counters that all processes share; None if there is only one process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    store: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, on all of them."""
        if self.count == 1:
            return [value]
        values = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def of_first(self, value: Any) -> Any:
        """Return the value of the first process."""
        return self.gather(value if self.is_first else None)[0]

    def add(self, counter: str, number: int) -> int:
        """Add a number to a counter of all processes and return its sum so far. One process counts nothing."""
        return number if self.store is None else self.store.add(counter, number)

    def wait_for(self, counter: str, total: int) -> Iterator[int]:
        """Yield the sum of a counter of all processes several times a second, until it is `total`."""
        while self.store is not None and (found := self.store.add(counter, 0)) < total:
            yield found
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Run the body on the first process, then on the others, which find its results on disk."""
        if not self.is_first:
            self.gather(None)
        yield
        if self.is_first:
            self.gather(None)

    @contextmanager
    def printing(self) -> Iterator[None]:
        """Hide printed notes of the body on all processes but the first."""
        with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as hidden:
            if not self.is_first:
                hidden.enter_context(contextlib.redirect_stdout(nowhere))
                hidden.enter_context(contextlib.redirect_stderr(nowhere))
            yield

    def device(self, wanted: str | None) -> str | None:
        """Return the device of this process: the wanted one, or by default one GPU for each process.

        Raises:
            UsageError: there are fewer GPUs than processes, or each process would spread its model over all GPUs.
        """
        if self.count == 1:
            return wanted
        if wanted == "auto":
            raise UsageError("--device auto is not supported with several processes. Remove it, or start one process.")
        if wanted is not None or not torch.cuda.is_available():
            return wanted
        if self.local_rank >= (found := torch.cuda.device_count()):
            raise UsageError(
                f"more processes were started on this machine than it has GPUs ({found}). Start {found}, or add "
                "--device cuda:0 to share one GPU."
            )
        return f"cuda:{self.local_rank}"


@contextmanager
def joined() -> Iterator[Processes]:
    """Connect the processes of a launcher, or return this process alone if there is no launcher.

    Raises:
        UsageError: several processes were started, but they cannot find each other.
    """
    started = max(int(os.environ.get(name) or 1) for name in STARTED)
    if started == 1:
        yield Processes()
        return
    missing = [name for name in _MEETING if not os.environ.get(name)]
    if missing or int(os.environ["WORLD_SIZE"]) != started:
        reason = f"{missing[0]} is not set" if missing else f"WORLD_SIZE is {os.environ['WORLD_SIZE']}"
        raise UsageError(
            f"{started} processes were started, but each would evaluate alone ({reason}). Start them with torchrun "
            f"--nproc_per_node {started} eval.py ..."
        )
    if distributed.is_initialized():
        raise UsageError("the processes are already connected. Call eval.py as a program.")
    store, rank, count = next(distributed.rendezvous("env://", timeout=timedelta(minutes=10)))
    store.set_timeout(_LONGEST_WAIT)
    counters = distributed.PrefixStore("evaluation", store)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=_LONGEST_WAIT)
    if distributed.get_world_size() != started:
        raise UsageError(f"{started} processes were started, but {distributed.get_world_size()} are connected.")
    yield Processes(rank, count, int(os.environ.get("LOCAL_RANK") or 0), counters)
    distributed.destroy_process_group()
