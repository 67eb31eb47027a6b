"""Compare a training step with LISA's way of doing the same work: time, peak memory, growth, and time of each part.

    python benchmarks/bench_train.py --size middle --vocabulary 32768 --output train.json
    python benchmarks/bench_train.py --size middle --parts
    python benchmarks/bench_train.py --size real --checkpointing --results benchmarks/RESULTS.md

The ways are "ours" (LoRA, the `[SEG]` row, projector and mask decoder are trained) and "lisa" (see lisa_style.py), with
the same weights and the same images, questions and masks. Each way runs in its own process. A step is a forward pass,
a backward pass and a step of AdamW. On a CPU, times are CPU seconds of one thread. Memory is the peak in addition to
the weights.
"""

import argparse
import contextlib
import json
from dataclasses import replace
from typing import Any

import torch

from gemma_lisa.benchmarks.lisa_style import lisa_losses, train_as_lisa
from gemma_lisa.benchmarks.part_clock import (
    BACKWARD,
    FORWARD,
    OPTIMIZER,
    REST,
    PartClock,
    count_parts,
    table_of_parts,
    time_parts,
)
from gemma_lisa.benchmarks.report import publish
from gemma_lisa.benchmarks.stand_in_model import (
    LORA_RANK,
    Work,
    add_work_options,
    build_stand_in,
    collate,
    make_samples,
    one_row_per_question,
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
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.freed_memory import keep_freed_memory
from gemma_lisa.safety.whole_files import write_whole

WAYS = ("ours", "lisa")
# Changes of one quantity at a time, of which --growth measures all values
GROWTH = {
    "images": [{"images": count} for count in (1, 2, 4)],
    "questions": [{"questions": count} for count in (1, 3, 6)],
    "tokens of a question": [{"words": count} for count in (16, 48, 96)],
    "vocabulary": [{"vocabulary": size} for size in (32_768, 131_072, 262_208)],
    "mask size": [{"mask_size": size} for size in ((240, 320), (480, 640), (960, 1280))],
}


# ---------------------------------------------------------------------------------------------------------------------
# A training step, in a child process
# ---------------------------------------------------------------------------------------------------------------------
class Step:
    """A training step of one way.

    Args:
        way: one of WAYS.
        work: what is measured.
        checkpointing: use activation checkpointing.
        given_features: pass the features of both encoders to `forward`, which then runs no encoder. Only "ours".
    """

    def __init__(self, way: str, work: Work, checkpointing: bool = False, given_features: bool = False):
        self.way, self.device = way, torch.device(work.device)
        self.model, processor = build_stand_in(work)
        samples = make_samples(work)
        rows = samples if way == "ours" else one_row_per_question(samples)
        self.batch = collate(rows, processor, self.model.config, work.device)
        for name in ("pixel_values", "sam_pixel_values"):
            self.batch[name] = self.batch[name].to(work.dtype)
        if way == "ours":
            self._trained = add_lora(self.model, LORA_RANK).train()
        else:
            self._trained = train_as_lisa(self.model, LORA_RANK).train()
            self._image_of_row = torch.arange(work.images, device=self.device).repeat_interleave(work.questions)
        if checkpointing:
            self.model.activation_checkpointing_enable()
        if given_features:
            self._encode()
        parameters = [parameter for parameter in self._trained.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=self.device.type == "cuda")

    def losses(self) -> dict[str, torch.Tensor]:
        """Return loss, language_loss, mask_bce_loss and mask_dice_loss of a forward pass."""
        is_gpu = self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if is_gpu else contextlib.nullcontext():
            if self.way == "ours":
                return self._trained(**self.batch)
            return lisa_losses(self.model, self.batch, self._image_of_row)

    def run(self, clock: PartClock | None = None) -> None:
        """Take a step. clock: counts its parts."""
        switch = clock.switch if clock else lambda *given: None
        switch(REST, FORWARD)
        loss = self.losses()["loss"]
        switch(REST, BACKWARD)
        loss.backward()
        switch(OPTIMIZER)
        self.optimizer.step()
        self.optimizer.zero_grad()
        switch(None)

    @torch.no_grad()
    def _encode(self) -> None:
        """Replace the images of the batch by their features."""
        features = self.model.model.get_image_features(self.batch.pop("pixel_values"), return_dict=True)
        self.batch["image_features"] = features.pooler_output  # (I, T, D)
        self.batch["image_embeddings"] = self.model.encode_for_sam(self.batch.pop("sam_pixel_values"))


def child(given: dict[str, Any]) -> None:
    """Measure steps, or their parts, on request."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as train.py
    keep_freed_memory()
    work = Work(**given["work"])
    step = Step(given["way"], work, given["checkpointing"], given["given_features"])
    meter = Meter(work.device)
    constant = {}
    if given["parts"]:
        constant = {"matmul_peak": matmul_peak(meter, work.dtype), **count_parts(step.model, step.run)}

    def measure() -> dict[str, Any]:
        taken = time_parts(step.model, step.run, meter.now) if given["parts"] else {"seconds": meter.time(step.run)}
        return {**taken, **constant, "peak_mb": meter.peak_mb()}

    serve(measure)


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------
def parse(arguments: list[str]) -> argparse.Namespace:
    parser = way_parser(__doc__)
    add_work_options(parser)
    parser.add_argument("--checkpointing", action="store_true", help="use activation checkpointing (default: off)")
    parser.add_argument(
        "--given_features", action="store_true", help="pass the features of both encoders, only ours (default: off)"
    )
    parser.add_argument("--growth", action="store_true", help="change one quantity at a time (default: off)")
    parser.add_argument("--parts", action="store_true", help="measure each part of the model (default: off)")
    args = parser.parse_args(arguments)
    args.ways = read_ways(args.ways, WAYS)
    if args.growth and args.parts:
        raise UsageError("--growth and --parts cannot be combined. Run them one after the other.")
    return args


def compare_ways(args: argparse.Namespace, work: Work) -> dict[str, dict[str, Any]]:
    """Return {way: result of `compare`}."""
    options = {"work": work.to_json(), "checkpointing": args.checkpointing, "parts": args.parts}
    cases = [{"way": way, "given_features": args.given_features and way == "ours", **options} for way in args.ways]
    return dict(zip(args.ways, compare(__file__, cases, args.repeats), strict=True))


def cells_of(results: dict[str, dict[str, Any]]) -> list[Any]:
    """Return the cells of a row: seconds and MB of each way, and of both ways the ratios."""
    cells = [cell for result in results.values() for cell in (result["seconds"], f"{result['peak_mb']:,.0f}")]
    if len(results) == len(WAYS):
        ours, lisa = (results[way] for way in WAYS)
        cells += [f"{lisa['seconds'] / ours['seconds']:.1f}×", f"{100 * ours['peak_mb'] / lisa['peak_mb']:.0f} %"]
    return cells


def columns_of(ways: list[str]) -> list[str]:
    """Return the titles of `cells_of`."""
    titles = [title for way in ways for title in (f"{way}, s", f"{way}, MB")]
    return titles + (["s, lisa / ours", "MB, ours / lisa"] if len(ways) == len(WAYS) else [])


def table_of_growth(args: argparse.Namespace, work: Work) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the table of GROWTH, and its results."""
    lines, found, known = [], [], {}
    for quantity, changes in GROWTH.items():
        if work.size == "tiny" and quantity == "vocabulary":
            changes = [{"vocabulary": size // 32} for (size,) in (change.values() for change in changes)]
        for change in changes:
            changed = replace(work, **change)
            if changed not in known:
                known[changed] = compare_ways(args, changed)
            lines.append([quantity, *(str(value) for value in change.values()), *cells_of(known[changed])])
            found.append({"changed": change, "ways": known[changed]})
    return table(["quantity", "value", *columns_of(args.ways)], lines), found


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    if args.child is not None:
        child(json.loads(args.child))
        return
    work = read_work(args)
    check_outputs(args)
    found = header(__file__, arguments, work.device)
    if args.growth:
        lines, results = table_of_growth(args, work)
    else:
        results = compare_ways(args, work)
        lines = table(columns_of(args.ways), [cells_of(results)])
    if args.parts:
        lines = [line for way, result in results.items() for line in ["", *table_of_parts(way, result)]]
    if args.output:
        write_whole(args.output, {**found, "work": work.to_json(), "results": results})
    publish([headline(found, args.repeats), *lines], args.results)


if __name__ == "__main__":
    run(main)
