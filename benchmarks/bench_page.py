"""Measure the latency that the web page adds to the model, and twenty concurrent clients.

    python benchmarks/bench_page.py

Starts app.py with the small checkpoint on the CPU. The model in this process and the page are asked the same questions
in turn. The page is used by HTTP, as a browser does. The time to the first text of each answer is measured.

Then twenty clients upload an image and ask different questions at the same time. Their answers are compared with those
of the model.
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
# Different questions in turn, because a session drafts an answer from the answers before
QUESTIONS = ("all the blue triangles", "the red circle", "the blue square")
CLIENTS, COLOURS, SHAPES = 20, ("red", "blue", "green", "yellow", "purple"), ("circle", "square", "triangle", "shape")
TIMEOUT = 600  # seconds
FIRST_TEXT = 1  # index of the event with the first text of an answer; event 0 repeats the question


class PageClient:
    """A client of the page that works like a browser: it joins the queue, then reads the events of the server."""

    def __init__(self, address: str, name: str):
        self.name, self.http = name, httpx.Client(base_url=f"{address}gradio_api/", timeout=TIMEOUT)
        config = httpx.get(f"{address}config", timeout=TIMEOUT).json()
        self.numbers = {event["api_name"]: event["id"] for event in config["dependencies"]}

    def call(self, event: str, *data) -> tuple[list[float], list]:
        """Return the seconds until each event of the server, and the first values of all outputs."""
        start = time.perf_counter()
        body = {"data": list(data), "fn_index": self.numbers[event], "session_hash": self.name}
        self.http.post("queue/join", json=body).raise_for_status()
        times, first = [], None
        with self.http.stream("GET", "queue/data", params={"session_hash": self.name}) as answer:
            for line in answer.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") in ("process_generating", "process_completed"):
                    if not message["success"]:
                        raise RuntimeError(f"event {event} failed: {message}")
                    times.append(time.perf_counter() - start)
                    first = first or message["output"]["data"]
                if message.get("msg") == "process_completed":
                    return times, first
        raise RuntimeError(f"event {event}: the server closed the connection before the end of the answer")

    def upload(self, path: Path) -> None:
        """Upload an image and open it."""
        sent = self.http.post("upload", files={"files": (path.name, path.read_bytes())})
        (there,) = sent.raise_for_status().json()
        self.call("receive", {"path": there, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}})
        self.call("open", "en")

    def answers(self) -> list[dict]:
        """Return the conversation that the page offers as JSON."""
        _, (stage, _) = self.call("json", "en")
        return json.loads(base64.b64decode(stage["file"]["base64"]))


def start_page() -> tuple[str, subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if "The page is at" not in process.stdout.readline():
        raise RuntimeError("app.py did not start; run it manually to see the error.")
    return f"http://127.0.0.1:{port}/", process


def time_to_first_text(session, question: str) -> float:
    """Return the seconds from a question to the first text of the model's answer."""
    session.reset()
    start = time.perf_counter()
    answers = session.stream(question)
    next(answers)
    seconds = time.perf_counter() - start
    for _ in answers:
        pass
    return seconds


def measure_latency(address: str, session, turns: int) -> list[str]:
    """Return table rows with the times to the first text of the model and of the page."""
    client = PageClient(address, "alone")
    client.upload(SCENE)
    alone, page = [], []
    for number in range(turns + 1):
        question = QUESTIONS[number % len(QUESTIONS)]
        alone.append(time_to_first_text(session, question))
        client.call("restart", "en")
        times, _ = client.call("ask", question, "en")
        page.append(times[FIRST_TEXT])
    added = [seconds - own for seconds, own in zip(page[1:], alone[1:], strict=True)]  # without the warm-up question
    return [
        f"| {name} | {statistics.median(values):.3f} s | {max(values):.3f} s |"
        for name, values in (("model alone", alone[1:]), ("page", page[1:]), ("difference", added))
    ]


def measure_concurrency(address: str, model, processor) -> list[str]:
    """Return a line with the answers and times of CLIENTS concurrent clients."""
    questions = [f"the {colour} {shape}" for colour in COLOURS for shape in SHAPES][:CLIENTS]
    clients = [PageClient(address, f"client-{number}") for number in range(len(questions))]
    ready, start = threading.Barrier(len(questions)), []

    def run_client(number: int) -> tuple[float, float, str]:
        client = clients[number]
        ready.wait()
        start.append(time.perf_counter())
        client.upload(SCENE)
        opened = time.perf_counter()
        times, _ = client.call("ask", questions[number], "en")
        return opened + times[FIRST_TEXT] - start[0], opened + times[-1] - start[0], client.answers()[-1]["raw_text"]

    with ThreadPoolExecutor(len(questions)) as pool:
        found = list(pool.map(run_client, range(len(questions))))
    begun = time.perf_counter()
    equal = 0
    for question, (_, _, text) in zip(questions, found, strict=True):
        session = model.start(SCENE, processor)
        equal += session.ask(question)["raw_text"] == text
    alone = time.perf_counter() - begun
    firsts, lasts = sorted(first for first, _, _ in found), sorted(last for _, last, _ in found)
    return [
        f"{CLIENTS} concurrent clients, each with one image and one question: {equal} answers are equal to those of "
        f"the model, 0 errors. The first text came after {firsts[0]:.1f} to {firsts[-1]:.1f} s (median "
        f"{statistics.median(firsts):.1f} s), and the last answer was complete after {lasts[-1]:.1f} s. The model "
        f"alone needs {alone:.1f} s for all questions."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20, help="number of questions in the latency test (default: 20)")
    parser.add_argument("--output", type=Path, help="Markdown file to append the results to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    model, processor = load_checkpoint(EXAMPLE)
    address, process = start_page()
    try:
        table = measure_latency(address, model.start(SCENE, processor), args.turns)
        many = measure_concurrency(address, model, processor)
    finally:
        process.terminate()
        process.wait()
    lines = ["| time to the first text | median | maximum |", "|---|---|---|", *table, "", *many]
    lines.append(f"Load average at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    publish(lines, args.output)


if __name__ == "__main__":
    main()
