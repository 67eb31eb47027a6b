"""How much later than the model the web page answers, and twenty visitors at once.

    python benchmarks/bench_page.py

Starts app.py with the small checkpoint on the CPU. First the same question is asked in turn of the model in this
process and of the page by HTTP, as a browser does; the first byte of an answer is its first words. Then twenty visitors
put a picture in and ask, all at the same time, each its own question; the answers are compared with the model's.
"""

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch

from gemma_lisa.benchmarks.report import publish
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SCENE = ROOT / "docs" / "scene.png"
# Another one each time: what was said before is read ahead
QUESTIONS = ("all the blue triangles", "the red circle", "the blue square")
VISITORS, COLOURS, SHAPES = 20, ("red", "blue", "green", "yellow", "purple"), ("circle", "square", "triangle", "shape")
PATIENCE = 600  # seconds
FIRST_WORDS = 1  # the index of the event that brings them; before it comes one that repeats the question


class Visitor:
    """Asks the page as a browser does: joins the queue, then reads what the server sends."""

    def __init__(self, address: str, name: str):
        self.name, self.http = name, httpx.Client(base_url=f"{address}gradio_api/", timeout=PATIENCE)
        config = httpx.get(f"{address}config", timeout=PATIENCE).json()
        self.numbers = {told["api_name"]: told["id"] for told in config["dependencies"]}

    def call(self, event: str, *data) -> tuple[list[float], list]:
        """Seconds until each event that the server sent, and the first values of all outputs."""
        start = time.perf_counter()
        body = {"data": list(data), "fn_index": self.numbers[event], "session_hash": self.name}
        self.http.post("queue/join", json=body).raise_for_status()
        times, first = [], None
        with self.http.stream("GET", "queue/data", params={"session_hash": self.name}) as answer:
            for line in answer.iter_lines():
                told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if told.get("msg") in ("process_generating", "process_completed"):
                    if not told["success"]:
                        raise RuntimeError(f"{event}: {told}")
                    times.append(time.perf_counter() - start)
                    first = first or told["output"]["data"]
                if told.get("msg") == "process_completed":
                    return times, first
        raise RuntimeError(f"{event}: the server ended the answer early")

    def put_in(self, path: Path) -> None:
        sent = self.http.post("upload", files={"files": (path.name, path.read_bytes())})
        (there,) = sent.raise_for_status().json()
        self.call("receive", {"path": there, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}})
        self.call("open", "en")

    def answers(self) -> list[dict]:
        """What the page has written down of the conversation."""
        _, (stage, _) = self.call("json", "en")
        return json.loads(base64.b64decode(stage["file"]["base64"]))


def start_page() -> tuple[str, subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if "The page is at" not in process.stdout.readline():
        raise RuntimeError("app.py did not start; start it by hand to see why.")
    return f"http://127.0.0.1:{port}/", process


def first_words(session, question: str) -> float:
    """Seconds from the question to the first word of the model alone."""
    session.forget()
    start = time.perf_counter()
    answers = session.stream(question)
    next(answers)
    seconds = time.perf_counter() - start
    for _ in answers:
        pass
    return seconds


def one_visitor(address: str, session, turns: int) -> list[str]:
    visitor = Visitor(address, "alone")
    visitor.put_in(SCENE)
    alone, page = [], []
    for number in range(turns + 1):
        question = QUESTIONS[number % len(QUESTIONS)]
        alone.append(first_words(session, question))
        visitor.call("restart", "en")
        times, _ = visitor.call("ask", question, "en")
        page.append(times[FIRST_WORDS])
    later = [seconds - own for seconds, own in zip(page[1:], alone[1:], strict=True)]  # the first warms both up
    return [
        f"| {name} | {statistics.median(values):.3f} s | {max(values):.3f} s |"
        for name, values in (("the model alone", alone[1:]), ("the page", page[1:]), ("later by", later))
    ]


def many_visitors(address: str, model, processor) -> list[str]:
    questions = [f"the {colour} {shape}" for colour in COLOURS for shape in SHAPES][:VISITORS]
    visitors = [Visitor(address, f"visitor-{number}") for number in range(len(questions))]
    ready, start = threading.Barrier(len(questions)), []

    def visit(number: int) -> tuple[float, float, str]:
        visitor = visitors[number]
        ready.wait()
        start.append(time.perf_counter())
        visitor.put_in(SCENE)
        opened = time.perf_counter()
        times, _ = visitor.call("ask", questions[number], "en")
        return opened + times[FIRST_WORDS] - start[0], opened + times[-1] - start[0], visitor.answers()[-1]["raw_text"]

    with ThreadPoolExecutor(len(questions)) as pool:
        found = list(pool.map(visit, range(len(questions))))
    begun = time.perf_counter()
    right = 0
    for question, (_, _, text) in zip(questions, found, strict=True):
        session = model.start(SCENE, processor)
        right += session.ask(question)["raw_text"] == text
    alone = time.perf_counter() - begun
    firsts, lasts = sorted(first for first, _, _ in found), sorted(last for _, last, _ in found)
    return [
        f"{VISITORS} visitors at once, picture and question each: {right} answers are the model's own, 0 errors; the "
        f"first words came after {firsts[0]:.1f} to {firsts[-1]:.1f} s (median {statistics.median(firsts):.1f} s), the "
        f"last answer was whole after {lasts[-1]:.1f} s; the model alone takes {alone:.1f} s for the twenty."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20, help="questions of one visitor")
    parser.add_argument("--output", type=Path, help="append the results there too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    model, processor = load_checkpoint(EXAMPLE)
    address, process = start_page()
    try:
        table = one_visitor(address, model.start(SCENE, processor), args.turns)
        many = many_visitors(address, model, processor)
    finally:
        process.terminate()
        process.wait()
    lines = ["| first words of an answer | median | longest |", "|---|---|---|", *table, "", *many]
    lines.append(f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    publish(lines, args.output)


if __name__ == "__main__":
    main()
