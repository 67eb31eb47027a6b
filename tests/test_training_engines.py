"""DDP, ZeRO-2, ZeRO-3 and FSDP2 in two processes train as one process does. This file is also the program they run.

On a CPU Accelerate does not shard: FSDP2 is here torch's `fully_shard` on the same model and the same step, not
Accelerate's way into it.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, set_seed

from gemma_lisa import train
from gemma_lisa.checkpoint import load_checkpoint
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import MixtureQuestions, Part
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.shapes import row_of_scene
from gemma_lisa.datasets_builder.shapes_easy import draw_scene
from gemma_lisa.parallel import check_processes, hold_constants, whole_weights
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.trainer import LOSS_PARTS, GemmaLisaTrainer
from gemma_lisa.training_arguments import GemmaLisaTrainingArguments

ROOT = Path(train.__file__).parent
SIZE = 32  # pixels a side
ROWS_A_STEP, STEPS_AN_EPOCH = 4, 8
# What is trained -> steps of the run, half of which a resumed run does again
STEPS = {"lora": 6, "parts": 20}
ENGINES = ("ddp", "zero2", "zero3", "fsdp2")
SHARDED = ("Gemma3DecoderLayer", "SiglipEncoderLayer", "SamVisionLayer")
COMPARED = (*LOSS_PARTS, "grad_norm")


# ---------------------------------------------------------------------------------------------------------------------
# What the processes run
# ---------------------------------------------------------------------------------------------------------------------
def mixture() -> MixtureQuestions:
    """Scenes with masks, scenes with words only, and rows without an image."""
    rows = []
    for number in range(9):
        generator = np.random.default_rng(number)
        rows.append(row_of_scene(draw_scene(generator, SIZE), generator, True, f"drawn/{number}"))
    words = [{**row, "targets": []} for row in rows[3:]]
    text = [{**row, "image": None} for row in words]
    sets = {"scenes": (rows[:6], 2.0), "words": (words, 1.0), "text": (text, 2.0)}
    parts = [Part(name, Dataset.from_list(of, features=ROW_FEATURES), share) for name, (of, share) in sets.items()]
    return MixtureQuestions(parts, 0, 3, ROWS_A_STEP * STEPS_AN_EPOCH)


def make_trainer(start: Path, folder: Path, engine: str, trained: str) -> GemmaLisaTrainer:
    processes = int(os.environ.get("WORLD_SIZE", 1))
    is_deepspeed = engine.startswith("zero")
    if is_deepspeed:
        # Without a GPU accelerate chooses no backend of its own accord, and would count one process
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        PartialState(backend="gloo")
        del os.environ["ACCELERATE_USE_DEEPSPEED"]
    args = GemmaLisaTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=ROWS_A_STEP // processes,
        expected_processes=processes,
        max_steps=STEPS[trained],
        save_steps=STEPS[trained] // 2,
        learning_rate=1e-3,
        adam_epsilon=1e-4,  # a gradient that is zero but for rounding must not choose the direction
        optim="adamw_torch",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=not is_deepspeed,  # with it there would be no DeepSpeed
        dataloader_pin_memory=False,
        accelerator_config={"use_configured_state": is_deepspeed},
        deepspeed=str(ROOT / f"configs/deepspeed/{engine}.json") if is_deepspeed else None,
    )
    check_processes(args)
    set_seed(args.seed)  # as train.py does: LoRA begins the same in every process
    with whole_weights(args):
        lora_rank = 4 if trained == "lora" else None
        model, processor = train.load_model(train.ModelArguments(model=str(start), lora_rank=lora_rank))
    hold_constants(model)
    if engine == "fsdp2":
        shard(model)
    return GemmaLisaTrainer(
        model=model,
        args=args,
        data_collator=GemmaLisaCollator(processor, as_bytes=True),
        train_dataset=mixture(),
        processing_class=processor,
    )


def run_engine(start: Path, folder: Path, engine: str) -> None:
    """Train whole, then from the middle on again; write what was logged."""
    for trained, steps in STEPS.items():
        middle = folder / trained / f"checkpoint-{steps // 2}"
        for name, resumed_from in (("whole", None), ("resumed", middle)):
            trainer = make_trainer(start, folder / trained, engine, trained)
            if engine == "fsdp2":
                history = train_sharded(trainer, middle, resumed_from is not None)
            else:
                trainer.train(resume_from_checkpoint=resumed_from and str(resumed_from))
                trainer.save_model(str(folder / trained / name))
                history = [entry for entry in trainer.state.log_history if "language_loss" in entry]
            if trainer.is_world_process_zero():
                (folder / f"{trained}-{name}.json").write_text(json.dumps(history))


def shard(model: torch.nn.Module) -> None:
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for module in list(model.modules()):
        if type(module).__name__ in SHARDED:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def train_sharded(trainer: GemmaLisaTrainer, middle: Path, resume: bool) -> list[dict[str, float]]:
    """Trainer's loop over a model of DTensors: the same batches, loss, clipping, optimizer and schedule."""
    import torch.distributed.checkpoint.state_dict as states

    model = trainer.model.train()
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, torch.distributed.tensor.DTensor), name
    halved = [
        parameter.to_local().numel() * 2 <= parameter.numel() + 2 * parameter[0].numel()
        for parameter in model.parameters()
    ]
    assert all(halved)
    trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
    whole = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
    first = 0
    if resume:
        saved = torch.load(middle / "state.pt", weights_only=True)
        with torch.no_grad():  # torch's own way leaves out a parameter that two modules share, as the row of [SEG]
            for name, parameter in model.named_parameters():
                where = (parameter.device_mesh, parameter.placements)
                parameter.copy_(torch.distributed.tensor.distribute_tensor(saved["model"][name], *where))
        states.set_optimizer_state_dict(model, trainer.optimizer, saved["optimizer"], options=whole)
        trainer.lr_scheduler.load_state_dict(saved["scheduler"])
        first = trainer.args.max_steps // 2

    loader, history = trainer.get_train_dataloader(), []
    for step in range(trainer.args.max_steps):
        epoch, at = divmod(step, STEPS_AN_EPOCH)
        if at == 0:
            loader.set_epoch(epoch)  # accelerate's own count goes on only where a loader is read to its end
            batches = iter(loader)
        (batch,), counts = trainer.get_batch_samples(batches, 1, torch.device("cpu"))
        if step < first:
            continue
        trainer.compute_loss(model, trainer._prepare_inputs(batch), num_items_in_batch=counts).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm).full_tensor()
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.optimizer.zero_grad()
        sums = torch.stack([trainer._part_sums[name] for name in LOSS_PARTS])
        trainer._part_sums.clear()
        torch.distributed.all_reduce(sums)
        history.append(
            {"step": step + 1, "grad_norm": norm.item(), **dict(zip(LOSS_PARTS, sums.tolist(), strict=True))}
        )
        if step + 1 == trainer.args.max_steps // 2 and not resume:
            saved = {
                "model": states.get_model_state_dict(model, options=whole),
                "optimizer": states.get_optimizer_state_dict(model, trainer.optimizer, options=whole),
                "scheduler": trainer.lr_scheduler.state_dict(),
            }
            if trainer.is_world_process_zero():
                middle.mkdir(parents=True)
                torch.save(saved, middle / "state.pt")
            torch.distributed.barrier()

    # As Trainer saves under FSDP: all weights gathered, written by one process
    state = states.get_model_state_dict(model, options=whole)
    trainer._save(str(middle.parent / ("resumed" if resume else "whole")), state_dict=state)
    return history


# ---------------------------------------------------------------------------------------------------------------------
# Tests
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    model, processor = build_tiny(image_size=SIZE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one(start, tmp_path_factory):
    """What one process does with the same rows a step."""
    folder = tmp_path_factory.mktemp("one")
    run_engine(start, folder, "one")
    return folder


def run_two(start: Path, folder: Path, engine: str) -> None:
    """As `run_engine`, in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    done = subprocess.run(
        [sys.executable, *torchrun, __file__, str(start), str(folder), engine],
        capture_output=True,
        text=True,
        # On the CPU, also where there is a GPU
        env={
            **os.environ,
            **{"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        },
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-6000:]


def numbers(folder: Path, name: str) -> np.ndarray:
    """(steps, parts) of a run; a part that no batch of a step had is 0."""
    return np.array([[entry.get(part, 0.0) for part in COMPARED] for entry in json.loads((folder / name).read_text())])


def test_the_mixture_leaves_a_process_without_masks_and_images():
    questions = mixture()
    alone = {"masks": 0, "image": 0}
    for step in range(STEPS_AN_EPOCH):
        halves = [[questions[4 * step + 2 * half + at] for at in (0, 1)] for half in (0, 1)]
        has_image = [any(sample["image"] is not None for sample in half) for half in halves]
        has_masks = [any(m is not None and len(m) for s in half for m in s["masks"]) for half in halves]
        alone["image"] += has_image[0] != has_image[1]
        alone["masks"] += has_masks[0] != has_masks[1]
    assert alone["masks"] >= 2 and alone["image"] >= 1, alone


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_trains_saves_and_resumes_as_one_process_does(engine, start, one, tmp_path):
    run_two(start, tmp_path, engine)
    for trained, steps in STEPS.items():
        expected = numbers(one, f"{trained}-whole.json")
        assert len(expected) == steps
        found = numbers(tmp_path, f"{trained}-whole.json")
        assert np.allclose(found, expected, rtol=0, atol=1e-4), (trained, np.abs(found - expected).max(0))
        resumed = numbers(tmp_path, f"{trained}-resumed.json")[-(steps // 2) :]
        assert np.array_equal(resumed, found[-(steps // 2) :]), (trained, np.abs(resumed - found[steps // 2 :]).max(0))

    # One folder of safetensors, which AutoModel opens, with the weights that one process ends with
    model = AutoModel.from_pretrained(tmp_path / "parts" / "whole")
    reference = AutoModel.from_pretrained(one / "parts" / "whole").state_dict()
    before = AutoModel.from_pretrained(start).state_dict()
    moved = 0
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, reference[name], rtol=0, atol=1e-4), name
        moved += not torch.equal(tensor, before[name])
    assert moved > 50
    saved = load_file(tmp_path / "parts" / "whole" / "model.safetensors")
    # ZeRO-2 and FSDP2 hand over copies of all weights, and the head that is tied is saved with them
    assert ("lm_head.weight" in saved) == (engine in ("zero2", "fsdp2"))
    for name in ("sam.shared_image_embedding.positional_embedding", "model.language_model.embed_tokens.weight"):
        assert saved[name].dtype == torch.float32

    adapter = load_file(tmp_path / "lora" / "whole" / "adapter_model.safetensors")
    expected = load_file(one / "lora" / "whole" / "adapter_model.safetensors")
    assert adapter.keys() == expected.keys()
    for name, tensor in adapter.items():
        assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-4), name
    load_checkpoint(tmp_path / "lora" / "whole")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[3].startswith("zero"):
        import deepspeed

        # gloo in place of an operation for shared memory, which would be compiled for a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    run_engine(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    torch.distributed.destroy_process_group()
