"""What every program does with what goes wrong: one line on stderr, and an exit code that says whose turn it is."""

import os
import sys
from collections.abc import Callable

USAGE, FAILURE = 2, 1


class UsageError(ValueError):
    """The command line or the recipe is wrong: exit code 2."""


def run(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the arguments; errors become one line and an exit code, or a traceback with `--debug`."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        main([argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as error:
        if debug:
            raise
        line = " ".join(str(error).split()) or type(error).__name__
        rank = os.environ.get("RANK")
        print(f"error: {line}" + (f" (rank {rank})" if rank else ""), file=sys.stderr)
        sys.exit(USAGE if isinstance(error, UsageError) else FAILURE)
