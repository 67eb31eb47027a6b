"""The files of the project: without environments, outputs and installed packages, which git ignores."""

import os
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def files_of(root: Path) -> list[str]:
    """Return the files of a checkout as paths relative to its root: tracked files, and new files that are not ignored.

    Without `.git`, as in a downloaded archive, .gitignore alone says which files are ignored.
    """
    if not (root / ".git").exists():
        return _files_that_are_not_ignored(root)
    # The checkout is only listed, so it is safe to trust it if it belongs to another user
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted({path for path in listing.split("\0") if (root / path).is_file()})


def project_files(suffix: str = "") -> list[str]:
    """Return the files of the project with this ending, as `files_of` does.

    The code in examples/shapes-tiny is excluded, because it is a copy of the Hub files at the root.
    """
    return [
        path for path in files_of(ROOT) if path.endswith(suffix) and not re.match(r"examples/shapes-tiny/.*\.py$", path)
    ]


def _files_that_are_not_ignored(root: Path) -> list[str]:
    """Return the files that no pattern of .gitignore matches. Patterns are names, or paths from the root."""
    lines = [line.strip() for line in (root / ".gitignore").read_text(encoding="utf-8").splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]

    def is_ignored(path: str, is_folder: bool) -> bool:
        name = path.rpartition("/")[2]
        return any(
            fnmatch(f"/{path}" if "/" in pattern.rstrip("/") else name, pattern.rstrip("/"))
            for pattern in patterns
            if is_folder or not pattern.endswith("/")
        )

    found = []
    for folder, folders, files in os.walk(root):
        inside = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
        folders[:] = [name for name in folders if not is_ignored(f"{inside}{name}", is_folder=True)]
        found += [f"{inside}{name}" for name in files if not is_ignored(f"{inside}{name}", is_folder=False)]
    return sorted(found)
