"""Freed memory stays in the process."""

import platform
import subprocess
import sys

PROGRAM = """
import resource, torch
from gemma_lisa.safety.freed_memory import keep_freed_memory
{call}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):
    torch.ones(20_000_000) + 1  # two tensors of 80 MB, or 19,531 pages each
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_large_tensors_reuse_memory_with_glibc():
    has_option = platform.libc_ver()[0] == "glibc"
    kept, before = page_faults(f"assert keep_freed_memory() is {has_option}"), page_faults("")
    assert kept < before / 2 or not has_option


def test_other_systems_are_left_alone(monkeypatch):
    from gemma_lisa.safety import freed_memory

    monkeypatch.setattr(freed_memory.sys, "platform", "darwin")
    assert freed_memory.keep_freed_memory() is False
