"""Compare answers with a mask with LISA's way of giving them: time and peak memory.

    python benchmarks/bench_inference.py --size middle --vocabulary 32768 --output inference.json
    python benchmarks/bench_inference.py --size middle --adapter --batch 8
    python benchmarks/bench_inference.py --size middle --ways ours --parts
    python benchmarks/bench_inference.py --size real --results benchmarks/RESULTS.md

The ways are "ours" (`segment`) and "lisa" (see lisa_style.py), with the same weights, image and question. Every answer
has --tokens tokens; one is `[SEG]`. With --batch, `segment` also answers that many questions: one at a time,
in a batch about different images, and in a batch about one image. A session (`model.start`) answers two questions.
With --parts, the time of one question is measured by part of the model.

Each way runs in its own process. On a CPU, times are CPU seconds of one thread. Memory is the peak in addition to the
weights.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch

from gemma_lisa.benchmarks.lisa_style import add_lisa_lora, lisa_segment, use_stock_layers
from gemma_lisa.benchmarks.part_clock import REST, PartClock, count_parts, table_of_parts, time_parts
from gemma_lisa.benchmarks.report import publish
from gemma_lisa.benchmarks.stand_in_model import (
    LORA_RANK,
    Work,
    add_work_options,
    build_stand_in,
    forced_answers,
    make_image,
    make_prompts,
    question_text,
    read_work,
)
from gemma_lisa.benchmarks.way_processes import (
    Meter,
    check_outputs,
    compare,
    header,
    headline,
    matmul_peak,
    read_ways,
    serve,
    table,
    way_parser,
)
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.interfaces.command_line import positive, run
from gemma_lisa.pipeline_gemma_lisa import encode_questions
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.freed_memory import keep_freed_memory
from gemma_lisa.safety.whole_files import write_whole

TOKENS = 32
OURS, LISA = "ours", "lisa"
BATCH, ABOUT_ONE, ONE_BY_ONE = "in one batch", "in one batch about one image", "one at a time"
FIRST_MASK, FIRST, SECOND = "first mask", "first question", "second question"
SESSION, BY_PART = "session", "parts"


class Inference:
    """Answers of one way, each with a forced length and one mask.

    Args:
        work: the model; `images` and `questions` have no effect.
        adapter: add LoRA layers that are not merged.
        is_lisa: prepare the model for `lisa`, with stock layers, and LoRA where LISA has it.
        tokens: length of an answer.
    """

    def __init__(self, work: Work, adapter: bool, is_lisa: bool, tokens: int):
        self.work, self.tokens = work, tokens
        self.model, self.processor = build_stand_in(work)
        if is_lisa:
            use_stock_layers(self.model)
        if adapter and is_lisa:
            add_lisa_lora(self.model, LORA_RANK)
        elif adapter:
            add_lora(self.model, LORA_RANK)
        self.model.eval()
        self.model.requires_grad_(False)  # FlopCounterMode fails on views of trained weights made without gradients

    def lisa(self) -> tuple[torch.LongTensor, torch.FloatTensor]:
        """Return LISA's sequence (1, L + T) and mask logits (1, 256, 256)."""
        with forced_answers(self.model):
            return lisa_segment(self.model, make_prompts(self.work, self.processor, range(1)), self.tokens)

    def ours(self, images: range = range(1)) -> tuple[torch.LongTensor, torch.FloatTensor]:
        """Return sequences (B, L + T) and mask logits (B, 256, 256) of one question about each image."""
        prompts = make_prompts(self.work, self.processor, images)
        with forced_answers(self.model):
            output = self.model.segment(**prompts, max_new_tokens=self.tokens)
        return output.sequences, output.pred_masks

    def about_one_image(self, count: int) -> None:
        """Answer `count` questions about one image in one batch, in which the image is encoded once."""
        image = make_image(self.work, seed=0)
        questions = [{"text": question_text(self.work, 0, number), "image": image} for number in range(count)]
        prompts = encode_questions(self.processor, questions).to(self.work.device)
        with forced_answers(self.model):
            self.model.segment(**prompts, max_new_tokens=self.tokens)

    def one_by_one(self, count: int) -> None:
        """Answer as `ours` with `count` images, in separate calls."""
        for number in range(count):
            self.ours(range(number, number + 1))

    def switching(self, clock: PartClock) -> None:
        """Answer as `ours` with one image, while the clock runs."""
        clock.switch(REST)
        self.ours()
        clock.switch(None)

    def session(self, meter: Meter) -> dict[str, float]:
        """Return the seconds to the first mask of a session, of its first question, and of a second one.

        The first two include reading and encoding the image.
        """
        start, first_mask = meter.now(), None
        with forced_answers(self.model):
            session = self.model.start(make_image(self.work, seed=0), self.processor)
            for answer in session.stream(question_text(self.work, 0, 0), max_new_tokens=self.tokens):
                if first_mask is None and len(answer["masks"]):
                    first_mask = meter.now() - start
        first = meter.now() - start
        with forced_answers(self.model):
            ask = lambda: session.ask(question_text(self.work, 0, 1), max_new_tokens=self.tokens)  # noqa: E731
            second = meter.time(ask)
        return {FIRST_MASK: first_mask, FIRST: first, SECOND: second}


def child(given: dict[str, Any]) -> None:
    """Measure answers on request."""
    torch.set_num_threads(1)
    keep_freed_memory()
    way, work = given["way"], Work(**given["work"])
    inference = Inference(work, given["adapter"], way == LISA, given["tokens"])
    actions: dict[str, Callable[[], Any]] = {
        LISA: inference.lisa,
        OURS: inference.ours,
        BATCH: lambda: inference.ours(range(given["batch"])),
        ABOUT_ONE: lambda: inference.about_one_image(given["batch"]),
        ONE_BY_ONE: lambda: inference.one_by_one(given["batch"]),
    }
    meter = Meter(work.device)
    constant = {}
    if way == BY_PART:
        counted = count_parts(inference.model, inference.switching)
        constant = {"matmul_peak": matmul_peak(meter, work.dtype), **counted}

    def measure() -> dict[str, Any]:
        if way == BY_PART:
            taken = time_parts(inference.model, inference.switching, meter.now)
        else:
            taken = inference.session(meter) if way == SESSION else {"seconds": meter.time(actions[way])}
        return {**taken, **constant, "peak_mb": meter.peak_mb()}

    serve(measure)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = way_parser(__doc__)
    add_work_options(parser, has_batch=False)
    parser.add_argument("--tokens", type=positive, default=TOKENS, help=f"tokens of an answer (default: {TOKENS})")
    parser.add_argument("--adapter", action="store_true", help="add LoRA layers that are not merged (default: off)")
    parser.add_argument("--batch", type=positive, help="number of questions in a batch (default: no batch)")
    parser.add_argument("--parts", action="store_true", help="measure each part of the model (default: off)")
    args = parser.parse_args(arguments)
    args.ways = read_ways(args.ways, (OURS, LISA))
    if args.parts and OURS not in args.ways:
        raise UsageError(f"--parts needs the way {OURS}. Add it to --ways, or remove --parts.")
    if args.batch and OURS not in args.ways:
        raise UsageError(f"--batch needs the way {OURS}. Add it to --ways, or remove --batch.")
    return args


def rows_of(results: dict[str, dict[str, Any]], batch: int | None) -> list[list[Any]]:
    """Return the rows of the table: case, seconds, peak MB, and seconds relative to another case."""
    rows = []

    def add(case: str, seconds: float, peak: float | None, compared: str | None) -> None:
        rows.append([case, seconds, None if peak is None else f"{peak:,.0f}", compared])

    for way in (LISA, OURS):
        if way in results:
            add(f"one question, {way}", results[way]["seconds"], results[way]["peak_mb"], None)
    if LISA in results and OURS in results:
        rows[-1][-1] = f"lisa / ours: {results[LISA]['seconds'] / results[OURS]['seconds']:.1f}×"
    if batch:
        alone = results[ONE_BY_ONE]
        add(f"{batch} questions {ONE_BY_ONE}", alone["seconds"], alone["peak_mb"], None)
        for case in (BATCH, ABOUT_ONE):
            together = results[case]
            ratio = f"{ONE_BY_ONE} / batch: {alone['seconds'] / together['seconds']:.2f}×"
            add(f"{batch} questions {case}", together["seconds"], together["peak_mb"], ratio)
    if SESSION in results:
        session = results[SESSION]
        add(f"{SESSION}, {FIRST_MASK}", session[FIRST_MASK], None, None)
        add(f"{SESSION}, {FIRST}", session[FIRST], session["peak_mb"], None)
        add(f"{SESSION}, {SECOND}", session[SECOND], None, f"second / first: {session[SECOND] / session[FIRST]:.2f}")
    return rows


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    if args.child is not None:
        child(json.loads(args.child))
        return
    work = read_work(args)
    check_outputs(args)
    ways = [
        *args.ways,
        *([BATCH, ABOUT_ONE, ONE_BY_ONE] if args.batch else []),
        *([SESSION] if OURS in args.ways else []),
        *([BY_PART] if args.parts else []),
    ]
    found = header(__file__, arguments, work.device)
    given = {"work": work.to_json(), "adapter": args.adapter, "tokens": args.tokens, "batch": args.batch}
    results = dict(zip(ways, compare(__file__, [{"way": way, **given} for way in ways], args.repeats), strict=True))
    if args.output:
        write_whole(args.output, {**found, **given, "results": results})
    lines = table(["case", "s", "peak MB", "ratio"], rows_of(results, args.batch))
    if args.parts:
        lines += ["", *table_of_parts("one question", results[BY_PART])]
    publish([headline(found, args.repeats), *lines], args.results)


if __name__ == "__main__":
    run(main)
