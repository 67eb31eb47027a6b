"""Parameter groups with their own learning rates, and Muon for weight matrices.

`parameter_groups` serves the optimizers of Trainer. `MuonWithAdamW` is one optimizer for Trainer: Muon trains weight
matrices, AdamW everything else.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names

from gemma_lisa.checkpoints.lora import LORA, SEG_ROW, part_of_weight
from gemma_lisa.safety.short_text import count_of

# Part of the model that can have its own learning rate -> its parts by `lora.part_of_weight`. The bridge is what the
# project adds between Gemma and SAM: the projector, and the embedding of [SEG] where it is trained separately.
PARTS = {
    "lora": (LORA,),
    "bridge": ("seg_projector", SEG_ROW),
    "decoder": ("sam.mask_decoder",),
}
OTHER = "all else"
# Trainer's own patterns (biases and norms), position tables, the embedding of [SEG], DoRA's magnitudes
NEVER_DECAYED = [
    *(r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"),
    *(r"pos_embed", r"rel_pos_", r"trainable_tokens_delta", r"lora_magnitude_vector"),
]

# Names of optimizers that make their own parameter groups, without rates for parts
OWN_GROUPS = ("galore", "apollo", "lomo")
PROBES = ("0.125", "3", "true", "?")  # values for an optimizer argument; if it is read, they make a difference

MOMENTUM = 0.95  # Keller Jordan, Muon (2024)


def part_of(name: str) -> str:
    """Return the part (of PARTS, or OTHER) of a parameter. name: can have the prefixes of wrappers."""
    return next((part for part, held in PARTS.items() if part_of_weight(name) in held), OTHER)


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, rates: dict[str, float | None]
) -> list[dict[str, Any]]:
    """Return the trained parameters in groups by part and weight decay. Biases, norms and embeddings have no decay.

    Args:
        model: the model, wrapped or not.
        learning_rate: rate of every part without its own rate.
        weight_decay: decay of matrices and kernels.
        rates: part of PARTS -> its learning rate, or None.

    Returns:
        {"part", "params", "lr", "weight_decay"} of each group that is not empty.

    Raises:
        ValueError: a part has a rate, but no trained parameters.
    """
    decayed = set(get_parameter_names(model, [nn.LayerNorm, nn.Embedding], NEVER_DECAYED))
    groups: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name), name in decayed].append(parameter)
    for part, rate in rates.items():
        if rate is not None and not any(part == trained for trained, _ in groups):
            raise ValueError(
                f"{part}_learning_rate: no parameter of this part is trained. Remove it, or train the part."
            )
    return [
        {
            "part": part,
            "params": groups[part, decays],
            "lr": learning_rate if rates.get(part) is None else rates[part],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for part, decays in sorted(groups)
    ]


def describe_groups(groups: list[dict[str, Any]]) -> list[str]:
    """Return a line per group of `parameter_groups`: part, learning rate, weight decay, number of parameters."""
    return [
        f"{group['part']:10s} learning rate {group['lr']:.1e}, weight decay {group['weight_decay']:g}: "
        f"{sum(parameter.numel() for parameter in group['params']):,} parameters in "
        f"{count_of(len(group['params']), 'tensor')}"
        for group in groups
    ]


def optimizer_options(args: TrainingArguments) -> dict[str, Any]:
    """Return the keyword arguments that Trainer passes to the optimizer class of `optim`.

    Raises:
        ValueError: the optimizer makes its own groups, or `optim_args` are wrong.
        ImportError: the optimizer is not installed.
    """
    if any(word in args.optim for word in OWN_GROUPS):
        raise ValueError("this optimizer makes its own parameter groups. Use an AdamW optimizer.")
    if args.optim_args and not all(len(part.split("=")) == 2 for part in args.optim_args.split(",")):
        raise ValueError("expected name=value, or several of them separated by commas.")
    return Trainer.get_optimizer_cls_and_kwargs(args, None)[1]


def reads_optimizer_option(args: TrainingArguments, name: str) -> bool:
    """Return whether the optimizer of a run takes an option: `betas` or `eps`."""
    return args.muon_learning_rate is not None or name in optimizer_options(args)


def reads_optim_args(args: TrainingArguments) -> bool:
    """Return whether the optimizer reads all of `optim_args`. It does not read weight_decay: the groups have it."""
    names = [part.partition("=")[0].strip() for part in args.optim_args.split(",")]
    return args.muon_learning_rate is None and all(
        name != "weight_decay" and _tells_apart(args, [f"{name}={value}" for value in PROBES]) for name in names
    )


def _tells_apart(args: TrainingArguments, alternatives: list[str]) -> bool:
    """Return whether other `optim_args` change the optimizer's options, or are refused."""
    found = []
    for optim_args in alternatives:
        probed = copy.copy(args)
        probed.optim_args = optim_args
        try:
            found.append(optimizer_options(probed))
        except (ValueError, AttributeError):
            return True
    return any(options != found[0] for options in found)


def muon_of(args: TrainingArguments) -> tuple[Callable, dict[str, Any]] | None:
    """Return Trainer's optimizer_cls_and_kwargs for Muon, or None without muon_learning_rate."""
    if args.muon_learning_rate is None:
        return None
    options = {
        "muon_lr": args.muon_learning_rate,
        "adamw_lr": args.learning_rate,
        "weight_decay": args.weight_decay,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }
    return lambda: build_muon, options  # Trainer calls a factory with the whole model


class StackedMuon(torch.optim.Muon):
    """torch's Muon that orthogonalizes the updates of all matrices of one shape at once, in float32.

    Several processes share this work. torch's own processes them one by one in bfloat16. A step of the demo's 103
    matrices takes 5 to 14 times less CPU time here (benchmarks/RESULTS.md). It was not measured on a GPU.
    """

    def __init__(self, params: Iterable, lr: float, weight_decay: float, momentum: float = MOMENTUM):
        super().__init__(params, lr=lr, weight_decay=weight_decay, momentum=momentum)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            of_shape = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    of_shape[matrix.shape].append(matrix)
            ahead = [self._ahead(matrices, group["momentum"]) for matrices in of_shape.values()]
            all_updates = orthogonalize_shared(ahead, group["ns_coefficients"], group["ns_steps"])
            for ((rows, columns), matrices), updates in zip(of_shape.items(), all_updates, strict=True):
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-rate)
        return loss

    def _ahead(self, matrices: list[nn.Parameter], momentum: float) -> torch.Tensor:
        """Add the gradients of N matrices to their averages, and return Nesterov's momentum, (N, R, C) float32."""
        grads = [matrix.grad for matrix in matrices]
        averages = [self._average(matrix) for matrix in matrices]
        torch._foreach_lerp_(averages, grads, 1 - momentum)
        return torch.stack(torch._foreach_lerp(grads, averages, momentum)).float()

    def _average(self, matrix: nn.Parameter) -> torch.Tensor:
        """Return the running average of a matrix's gradients."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        return state["momentum_buffer"]


def orthogonalize(matrices: torch.Tensor, coefficients: tuple[float, float, float], num_steps: int) -> torch.Tensor:
    """Return matrices (N, R, C) with all singular values close to 1, by the Newton-Schulz iteration.

    Source: Keller Jordan, Muon (2024). The singular values end between about 0.7 and 1.2; zero stays zero.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT, coefficients, num_steps).mT
    a, b, c = coefficients
    matrices = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(1e-7)
    for _ in range(num_steps):
        gram = matrices @ matrices.mT  # (N, R, R)
        matrices = torch.baddbmm(matrices, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), matrices, beta=a)
    return matrices


def orthogonalize_shared(
    stacks: list[torch.Tensor], coefficients: tuple[float, float, float], num_steps: int
) -> list[torch.Tensor]:
    """Return `orthogonalize` of stacks that are equal on all processes; each process computes a share and sends it.

    Args:
        stacks: float32 matrices, each (N, R, C). Process r of P computes matrices r, r + P, ... of each stack.
        coefficients, num_steps: as in `orthogonalize`.
    """
    is_alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    if is_alone or not stacks:
        return [orthogonalize(stack, coefficients, num_steps) for stack in stacks]
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    shares = []
    for stack in stacks:
        share = stack.new_zeros((len(stack) + size - 1) // size, *stack.shape[1:])  # the last can stay empty
        own = stack[rank::size]
        share[: len(own)] = orthogonalize(own, coefficients, num_steps)
        shares.append(share)
    flat = torch.cat([share.flatten() for share in shares])
    gathered = flat.new_empty(size, len(flat))
    torch.distributed.all_gather(list(gathered), flat)  # into the rows
    parts = gathered.split([share.numel() for share in shares], dim=1)
    return [
        part.reshape(size, *share.shape).transpose(0, 1).flatten(0, 1)[: len(stack)]
        for part, share, stack in zip(parts, shares, stacks, strict=True)
    ]


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers in one: Muon and AdamW.

    Muon is for the matrices inside a network. Embeddings, heads, convolution kernels, biases and norms get AdamW.

    Args:
        named_parameters: (name, parameter) of the trained parameters.
        embeddings: parameters with two dimensions that are embedding tables.
        muon_lr, adamw_lr: learning rates; a schedule scales both.
        weight_decay: weight decay of both.
        betas, eps: options of AdamW.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        embeddings: Iterable[nn.Parameter],
        muon_lr: float,
        adamw_lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ):
        tables = {id(parameter) for parameter in embeddings}
        matrices, others = [], []
        for name, parameter in named_parameters:
            inner = parameter.ndim == 2 and id(parameter) not in tables
            (matrices if inner else others).append((name, parameter))
        if not matrices or not others:
            raise ValueError(
                "muon_learning_rate: Muon needs trained weight matrices, and AdamW other trained parameters. Remove it."
            )
        self.muon = StackedMuon(matrices, lr=muon_lr, weight_decay=weight_decay)
        self.adamw = torch.optim.AdamW(others, lr=adamw_lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        super().__init__([parameter for _, parameter in matrices + others], {"lr": muon_lr})
        self.param_groups = [
            *self.muon.param_groups,
            *self.adamw.param_groups,
        ]  # the same dicts, so one schedule changes both

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self):
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict):
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]


def build_muon(model: nn.Module, **options) -> MuonWithAdamW:
    """Return `MuonWithAdamW` for the trained parameters of `model`. options: its other arguments."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    tables += [parameter for name, parameter in trained if "trainable_tokens_delta" in name]  # the embedding of [SEG]
    return MuonWithAdamW(trained, tables, **options)
