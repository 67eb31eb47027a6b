"""Check that a checkpoint answers alike under the lowest and the newest tested transformers, without this project.

    python scripts/check_versions.py
    python scripts/check_versions.py --newest 5.25.0

An environment of exactly the packages that README names runs README's block; AutoModel, the pipeline and handler.py
answer the exported small checkpoint as they do here. An environment with the lowest transformers must give the same.
One with a transformers that is too old must fail in one sentence. Environments are kept and reused.
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
# The last release before transformers 5.
TOO_OLD = "4.57.6"
# Environments that are checked at the same time.
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
        errors[name] = f"{type(error).__name__}: {error}" + (" (with another error behind it)" if is_chained else "")
    else:
        errors[name] = "no error"
print(json.dumps(errors))
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--newest", help="transformers to test as the newest (default: the newest 5.x that pip finds)")
    return parser.parse_args(arguments)


# ---------------------------------------------------------------------------------------------------------------------
# README
# ---------------------------------------------------------------------------------------------------------------------
def read_block(readme: str) -> str:
    """Return README's first block of Python."""
    return re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]


def read_packages(readme: str) -> list[str]:
    """Return the packages of README's `pip install`."""
    return re.search(r"^pip install ([a-z ]+)$", readme, re.MULTILINE)[1].split()


def read_pins(constraints: str) -> dict[str, str]:
    """Return version by package of a constraints file."""
    return dict(re.findall(r"^([\w.-]+)==([\w.+]+)", constraints, re.MULTILINE))


# ---------------------------------------------------------------------------------------------------------------------
# Environments
# ---------------------------------------------------------------------------------------------------------------------
def install(folder: Path, requirements: list[str], above: Path | None = None) -> Path:
    """Make an environment, unless it is there with the same requirements, and return its Python.

    Args:
        folder: where.
        requirements: as pip takes them.
        above: Python of another environment whose packages are used where this one has no release of its own.
    """
    python, stamp = folder / "bin" / "python", folder / "requirements.json"
    below = [] if above is None else json.loads((above.parents[1] / stamp.name).read_text(encoding="utf-8"))
    wanted = [*requirements, *below, sys.version]
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=above is None)
    site_packages = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
    if above is not None:
        (folder / site_packages / "above.pth").write_text(f"{above.parents[1] / site_packages}\n", encoding="utf-8")
    quiet = ["--quiet", "--quiet", "--disable-pip-version-check", "--no-input"]
    pip = [above or python, "-m", "pip", *(["--python", python] if above else [])]
    subprocess.run([*pip, "install", *quiet, "--no-compile", *requirements], check=True)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def newest_release(tested: str) -> str:
    """Return the newest 5.x of transformers that pip finds, or the tested one where it finds none newer."""
    command = [sys.executable, "-m", "pip", "index", "versions", "transformers", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    listed = re.search(r"Available versions: (.*)", done.stdout)
    if listed is None:
        print(f"pip lists no releases, so the newest tested one is used: transformers {tested}.", flush=True)
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
    """Run Python code that prints JSON last, without this project and with a Hugging Face home of its own.

    Raises:
        ValueError: it fails; with the last line it wrote.
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
    """Compare what a checkpoint answers in an environment with what it answers here, and return a line about it.

    Raises:
        ValueError: something fails or differs.
    """
    begun = time.monotonic()
    try:
        compare_answers(python, exported, expected)
    except ValueError as error:
        raise ValueError(f"transformers {version}: {error}") from error
    return (
        f"transformers {version}: README's block, AutoModel, the pipeline, the handler, a session, saving and a "
        f"training step give what they give here ({time.monotonic() - begun:.0f} s)."
    )


def compare_answers(python: Path, exported: Path, expected: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        block = Path(folder, "block.py")
        block.write_text(read_block((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
        answer = run_in(python, "-c", RUN_BLOCK, block)
    if answer != expected["session"][0]:
        raise ValueError(f"README's block answers {answer}, expected {expected['session'][0]}.")
    check_loading(exported, python=str(python))
    found = run_in(python, PROBE, exported, SCENE)
    for name, value in expected.items():
        if found[name] != value:
            raise ValueError(f"{name} is {found[name]}, expected {value}.")


def check_too_old(python: Path, exported: Path) -> str:
    """Check that every way to open a checkpoint fails in the one sentence, and return a line about it.

    Raises:
        ValueError: one of them does something else.
    """
    expected = f"ImportError: {cannot_run(TOO_OLD)}"
    for way, error in run_in(python, "-c", OPEN_EACH_WAY, exported).items():
        if error != expected:
            raise ValueError(f"transformers {TOO_OLD}: {way} gives {error!r}, expected {expected!r}.")
    return f"transformers {TOO_OLD}: every way to open a checkpoint fails with this sentence: {cannot_run(TOO_OLD)}"


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    pins = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    pins["transformers"] = args.newest or newest_release(pins["transformers"])
    packages = read_packages((ROOT / "README.md").read_text(encoding="utf-8"))
    begun = time.monotonic()

    newest = install(ENVIRONMENTS / "newest", [f"{name}=={pins[name]}" for name in packages])
    lowest = install(ENVIRONMENTS / "lowest", [f"transformers=={LOWEST}"], above=newest)
    too_old = install(ENVIRONMENTS / "too_old", [f"transformers=={TOO_OLD}"], above=newest)
    print(f"The environments took {time.monotonic() - begun:.0f} s.", flush=True)

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
