"""Measure memory and time of a training step with Gemma 3's vocabulary: LM head on all or only on labelled positions.

    python benchmarks/bench_lm_head.py

Stock Gemma 3 computes (B, L, 262208) logits. Gemma-LISA computes (N, 262208), where N is the number of labelled tokens.
Each case runs in a separate process, whose peak memory is measured. The model is small (hidden size 128, 2 layers), so
that the head dominates.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from transformers import Gemma3ForConditionalGeneration

from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.scripts.init_tiny import build_config, build_processor

VOCABULARY = 262_208
LABELLED = 24  # number of answer tokens
LENGTHS = (256, 512, 1024, 2048)


def measure(kind: str, length: int) -> dict[str, float]:
    """Return loss, CPU seconds, and added peak memory in MB of a forward and backward step on (1, length) tokens."""
    torch.set_num_threads(1)
    config = build_config(build_processor(64), 64)
    config.text_config.vocab_size = VOCABULARY
    config.text_config.hidden_size = 128
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    classes = {"every position": Gemma3ForConditionalGeneration, "labelled only": GemmaLisaForConditionalGeneration}
    model = classes[kind](config).train()
    input_ids = torch.randint(10, 200, (1, length))
    labels = torch.full_like(input_ids, -100)
    labels[:, -LABELLED:] = input_ids[:, -LABELLED:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    loss = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), labels=labels).loss
    loss.backward()
    return {
        "loss": loss.item(),
        "cpu_s": time.process_time() - start,
        "step_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, metavar=("KIND", "LENGTH"), help="run only this case, in this process")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case[0], int(args.case[1]))))
        return
    print(
        f"| tokens, {LABELLED} of them labelled | head on all positions | head on labelled positions |\n|---|---|---|"
    )
    for length in LENGTHS:
        cells = []
        for kind in ("every position", "labelled only"):
            command = [sys.executable, __file__, "--case", kind, str(length)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            cells.append(f"{result['step_mb']:,.0f} MB, {result['cpu_s']:.2f} CPU s")
        print(f"| {length:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
