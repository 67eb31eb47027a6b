"""Run the blocks of a page in one process: python tests/docs_runner.py SCRATCH < blocks.

The blocks are a JSON list of [where, language, code]. Programs are executed in this process, because importing torch
takes longer than most of them run. Blocks of Python share their variables.
"""

import io
import json
import runpy
import sys
from pathlib import Path

from accelerate.state import AcceleratorState
from docs_blocks import Call, calls_of
from docs_table import reason_not_run, shorten


def run_call(call: Call) -> None:
    """Execute `python FILE ...` or `python -m MODULE ...` as a process of its own would.

    Raises:
        RuntimeError: the program ended with another exit code than 0.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    _, *words = shorten(call.words)
    before, stdin = sys.argv, sys.stdin
    sys.stdin = io.StringIO(call.typed)
    try:
        if words[0] == "-m":
            sys.argv = ["", *words[2:]]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{' '.join(words)} ended with {stop.code}") from stop
    finally:
        sys.argv, sys.stdin = before, stdin


def main(scratch: Path) -> None:
    names = {"__name__": "__main__"}
    for where, language, code in json.loads(sys.stdin.read()):
        print(f"running {where}", file=sys.stderr, flush=True)
        if language == "python":
            exec(compile(code, where, "exec"), names)
            continue
        for call in calls_of(code, Path.cwd(), scratch):
            if reason_not_run(call) is None:
                run_call(call)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
