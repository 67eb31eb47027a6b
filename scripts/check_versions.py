"""Check that an exported checkpoint works with the lowest and the newest supported transformers, without this project.

    python scripts/check_versions.py
    python scripts/check_versions.py --newest 5.25.0

The program installs the packages of the README's `pip install` into virtual environments, which are kept and reused. In
each one, the Python example of the README, AutoModel, the pipeline and handler.py must give the same answers as here.
With a version of transformers that is too old, all of them must fail with the same one-line error.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from packaging.version import Version

from gemma_lisa.interfaces.command_line import ArgumentParser, run
from gemma_lisa.scripts.fresh_loading import check_loading
from gemma_lisa.versions_gemma_lisa import LOWEST, cannot_run

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints-versions.txt"
PROBE = Path(__file__).with_name("checkpoint_probe.py")
EXAMPLE, SCENE = ROOT / "examples" / "shapes-tiny", ROOT / "docs" / "scene.png"
ENVIRONMENTS = ROOT / ".venv-versions"
# The last release before transformers 5
TOO_OLD = "4.57.6"
# Number of environments that are checked in parallel
PROCESSES = 2

RUN_BLOCK = """
import json, runpy, sys
sys.modules["gemma_lisa"] = None
answer = runpy.run_path(sys.argv[1])["answer"]
print(json.dumps({"text": answer["text"], "pixels": answer["masks"].sum(dim=(1, 2)).tolist()}))
"""
OPEN_EACH_WAY = """
import json, sys
sys.modules["gemma_lisa"] = None
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

folder, errors = sys.argv[1], {}
ways = {opener.__name__: opener.from_pretrained for opener in (AutoConfig, AutoModel, AutoProcessor)}
ways["pipeline"] = lambda path, **options: pipeline("reasoning-segmentation", model=path, **options)
for name, way in ways.items():
    try:
        way(folder, trust_remote_code=True)
    except Exception as error:
        is_chained = bool(error.__cause__ or error.__context__)
        errors[name] = f"{type(error).__name__}: {error}" + (" (with a chained error)" if is_chained else "")
    else:
        errors[name] = "no error"
print(json.dumps(errors))
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--newest", help="newest version of transformers to test (default: the newest 5.x that pip finds)"
    )
    return parser.parse_args(arguments)


# ---------------------------------------------------------------------------------------------------------------------
# README
# ---------------------------------------------------------------------------------------------------------------------
def read_block(readme: str) -> str:
    """Return the first Python block of the README."""
    return re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]


def read_packages(readme: str) -> list[str]:
    """Return the packages of the README's `pip install`."""
    return re.search(r"^pip install ([a-z ]+)$", readme, re.MULTILINE)[1].split()


def read_pins(constraints: str) -> dict[str, str]:
    """Return package -> version of a constraints file."""
    return dict(re.findall(r"^([\w.-]+)==([\w.+]+)", constraints, re.MULTILINE))


# ---------------------------------------------------------------------------------------------------------------------
# Environments
# ---------------------------------------------------------------------------------------------------------------------
def install(folder: Path, requirements: list[str], fallback: Path | None = None) -> Path:
    """Create a virtual environment and return its Python. An existing one with the same requirements is reused.

    Args:
        folder: folder of the environment.
        requirements: requirements for pip.
        fallback: Python of another environment, whose packages are used if this one does not contain them.
    """
    python, stamp = folder / "bin" / "python", folder / "requirements.json"
    inherited = [] if fallback is None else json.loads((fallback.parents[1] / stamp.name).read_text(encoding="utf-8"))
    wanted = [*requirements, *inherited, sys.version]
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=fallback is None)
    site_packages = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
    if fallback is not None:
        (folder / site_packages / "fallback.pth").write_text(
            f"{fallback.parents[1] / site_packages}\n", encoding="utf-8"
        )
    quiet = ["--quiet", "--quiet", "--disable-pip-version-check", "--no-input"]
    pip = [fallback or python, "-m", "pip", *(["--python", python] if fallback else [])]
    subprocess.run([*pip, "install", *quiet, "--no-compile", *requirements], check=True)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def newest_release(tested: str) -> str:
    """Return the newest 5.x release of transformers that pip finds, or the tested one if none is newer."""
    command = [sys.executable, "-m", "pip", "index", "versions", "transformers", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    listed = re.search(r"Available versions: (.*)", done.stdout)
    if listed is None:
        print(f"pip cannot list releases of transformers. The tested version {tested} is used.", flush=True)
        return tested
    found = [Version(version) for version in listed[1].split(", ")]
    newest = max([Version(tested), *(version for version in found if version.major == 5 and not version.is_prerelease)])
    if newest > Version(tested):
        print(
            f"transformers {newest} is newer than the tested {tested}. If all checks pass, raise HIGHEST in "
            f"versions_gemma_lisa.py and the pin in {CONSTRAINTS.name}.",
            flush=True,
        )
    return str(newest)


def run_in(python: Path | str, *command: str | Path, cwd: Path = ROOT) -> Any:
    """Run Python code without this project and with an empty Hugging Face cache, and return its last line as JSON.

    Raises:
        ValueError: it fails. The message is the last line of its stderr.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HF_HOME": home, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [python, "-I", "-W", "error::FutureWarning", *command],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["It failed without a message."])[-1])
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------------------------------------------------
def check_release(python: Path, version: str, exported: Path, expected: dict[str, Any]) -> str:
    """Compare the answers in an environment with the expected answers and return a line for the report.

    Raises:
        ValueError: a way of loading fails, or an answer differs.
    """
    begun = time.monotonic()
    try:
        compare_answers(python, exported, expected)
    except ValueError as error:
        raise ValueError(f"transformers {version}: {error}") from error
    return (
        f"transformers {version}: passed in {time.monotonic() - begun:.0f} s (the README's example, AutoModel, the "
        "pipeline, the handler, a session, saving, and a training step)."
    )


def compare_answers(python: Path, exported: Path, expected: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        block = Path(folder, "block.py")
        block.write_text(read_block((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
        answer = run_in(python, "-c", RUN_BLOCK, block)
    if answer != expected["session"][0]:
        raise ValueError(f"the README's example answers {answer}; expected {expected['session'][0]}.")
    check_loading(exported, python=str(python))
    found = run_in(python, PROBE, exported, SCENE)
    for name, value in expected.items():
        if found[name] != value:
            raise ValueError(f"{name} is {found[name]}; expected {value}.")


def check_too_old(python: Path, exported: Path) -> str:
    """Check that every way to load a checkpoint fails with the same error, and return a line for the report.

    Raises:
        ValueError: one of them succeeds or fails with another error.
    """
    expected = f"ImportError: {cannot_run(TOO_OLD)}"
    for way, error in run_in(python, "-c", OPEN_EACH_WAY, exported).items():
        if error != expected:
            raise ValueError(f"transformers {TOO_OLD}: {way} gives {error!r}; expected {expected!r}.")
    return f"transformers {TOO_OLD}: passed, every way to load a checkpoint fails with: {cannot_run(TOO_OLD)}"


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    pins = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    pins["transformers"] = args.newest or newest_release(pins["transformers"])
    packages = read_packages((ROOT / "README.md").read_text(encoding="utf-8"))
    begun = time.monotonic()

    newest = install(ENVIRONMENTS / "newest", [f"{name}=={pins[name]}" for name in packages])
    lowest = install(ENVIRONMENTS / "lowest", [f"transformers=={LOWEST}"], fallback=newest)
    too_old = install(ENVIRONMENTS / "too_old", [f"transformers=={TOO_OLD}"], fallback=newest)
    print(f"Installed the environments in {time.monotonic() - begun:.0f} s.", flush=True)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(PROCESSES) as pool:
        exported = Path(folder, "exported")
        export = [sys.executable, ROOT / "scripts" / "export.py", "--model", EXAMPLE, "--output", exported]
        done = subprocess.run(export, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"The small checkpoint cannot be exported: {done.stderr.strip().splitlines()[-1]}")
        expected = run_in(sys.executable, PROBE, exported, SCENE)
        checks = [
            pool.submit(check_release, newest, pins["transformers"], exported, expected),
            pool.submit(check_release, lowest, LOWEST, exported, expected),
            pool.submit(check_too_old, too_old, exported),
        ]
        for check in checks:
            print(check.result(), flush=True)


if __name__ == "__main__":
    run(main)
