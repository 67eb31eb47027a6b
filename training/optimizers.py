"""What the optimizer is given: groups of parameters with rates of their own, or Muon for the weight matrices.

`parameter_groups` is for the optimizers that Trainer knows. `MuonWithAdamW` is one optimizer that Trainer steps,
schedules and saves: Muon for weight matrices, AdamW for everything else.
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

# Parts of the model that can have a learning rate of their own, and what they hold by `lora.part_of_weight`. The bridge
# is what the project adds between Gemma and SAM: the projector, and the row of [SEG] where it is trained alone.
PARTS = {
    "lora": (LORA,),
    "bridge": ("seg_projector", SEG_ROW),
    "decoder": ("sam.mask_decoder",),
}
OTHER = "all else"
# Beside Trainer's own (biases and norms): tables of positions, the row of [SEG], DoRA's magnitudes
NEVER_DECAYED = [
    *(r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"),
    *(r"pos_embed", r"rel_pos_", r"trainable_tokens_delta", r"lora_magnitude_vector"),
]

# Words in the names of optimizers that make groups of parameters of their own, without rates for parts
OWN_GROUPS = ("galore", "apollo", "lomo")
PROBES = ("0.125", "3", "true", "?")  # values for an argument of an optimizer: one that is read tells them apart

MOMENTUM = 0.95  # Keller Jordan, Muon (2024)


def part_of(name: str) -> str:
    """The part, of PARTS or OTHER, that the parameter of this name belongs to, whatever wrapped the model."""
    return next((part for part, held in PARTS.items() if part_of_weight(name) in held), OTHER)


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, rates: dict[str, float | None]
) -> list[dict[str, Any]]:
    """The trained parameters in groups of one part and one weight decay; biases, norms and embeddings are not decayed.

    Args:
        model: the model, wrapped or not.
        learning_rate: of every part that has no rate of its own.
        weight_decay: of matrices and kernels.
        rates: part of PARTS -> its learning rate, or None.

    Returns:
        {"part", "params", "lr", "weight_decay"} of each group that is not empty.

    Raises:
        ValueError: a rate for a part of which nothing is trained.
    """
    decayed = set(get_parameter_names(model, [nn.LayerNorm, nn.Embedding], NEVER_DECAYED))
    groups: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name), name in decayed].append(parameter)
    for part, rate in rates.items():
        if rate is not None and not any(part == trained for trained, _ in groups):
            raise ValueError(f"{part}_learning_rate: nothing of that part is trained; leave it out, or train the part.")
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
    """A line for each of `parameter_groups`: part, rate, how many numbers it moves."""
    return [
        f"{group['part']:10s} learning rate {group['lr']:.1e}, weight decay {group['weight_decay']:g}: "
        f"{sum(parameter.numel() for parameter in group['params']):,} in {len(group['params'])} tensors"
        for group in groups
    ]


def optimizer_options(args: TrainingArguments) -> dict[str, Any]:
    """What Trainer hands to the class that `optim` names, beside the parameters.

    Raises:
        ValueError, ImportError: an optimizer that makes its own groups or is not installed, or wrong `optim_args`.
    """
    if any(word in args.optim for word in OWN_GROUPS):
        raise ValueError("this optimizer makes its own groups of parameters; use an AdamW.")
    if args.optim_args and not all(len(part.split("=")) == 2 for part in args.optim_args.split(",")):
        raise ValueError("expected name=value, or several of them with commas between.")
    return Trainer.get_optimizer_cls_and_kwargs(args, None)[1]


def reads_optimizer_option(args: TrainingArguments, name: str) -> bool:
    """Whether the optimizer of a run takes `betas`, or `eps`."""
    return args.muon_learning_rate is not None or name in optimizer_options(args)


def reads_optim_args(args: TrainingArguments) -> bool:
    """Whether the optimizer of a run takes every one of `optim_args`. Weight decay comes from the groups instead."""
    names = [part.partition("=")[0].strip() for part in args.optim_args.split(",")]
    return args.muon_learning_rate is None and all(
        name != "weight_decay" and _tells_apart(args, [f"{name}={value}" for value in PROBES]) for name in names
    )


def _tells_apart(args: TrainingArguments, alternatives: list[str]) -> bool:
    """Whether the optimizer's options differ, or are refused, with other `optim_args`."""
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
    """What tells Trainer to use Muon, where the arguments give it a rate."""
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
    """torch's Muon, which makes the updates of all matrices of one shape orthogonal at once, and in float32.

    torch's own takes them one by one in bfloat16. Measured reason to keep this one: a step of the demo's 103 matrices
    takes 5 to 14 times less CPU time (benchmarks/RESULTS.md). It was not measured on a GPU.
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
            for (rows, columns), matrices in of_shape.items():
                grads = [matrix.grad for matrix in matrices]
                averages = [self._average(matrix) for matrix in matrices]
                torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, averages, group["momentum"])  # Nesterov's
                updates = orthogonalize(torch.stack(ahead).float(), group["ns_coefficients"], group["ns_steps"])
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-rate)
        return loss

    def _average(self, matrix: nn.Parameter) -> torch.Tensor:
        """The running average of a matrix's gradients."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        return state["momentum_buffer"]


def orthogonalize(matrices: torch.Tensor, coefficients: tuple[float, float, float], num_steps: int) -> torch.Tensor:
    """Matrices (N, R, C) with singular values near 1 in place of their own, by Newton and Schulz's iteration.

    Source: Keller Jordan, Muon (2024). Values come to lie between about 0.7 and 1.2; zero stays zero.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT, coefficients, num_steps).mT
    a, b, c = coefficients
    matrices = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(1e-7)
    for _ in range(num_steps):
        gram = matrices @ matrices.mT  # (N, R, R)
        matrices = torch.baddbmm(matrices, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), matrices, beta=a)
    return matrices


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers behind one face.

    Muon is made for the matrices inside a network; embeddings, tokens, heads, kernels, biases and norms get AdamW.

    Args:
        named_parameters: (name, parameter) of what is to be trained.
        embeddings: parameters that are matrices by shape but tables by use.
        muon_lr, adamw_lr: learning rates; a schedule scales both.
        weight_decay: of both.
        betas, eps: AdamW's.
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
            raise ValueError("Muon needs weight matrices, and AdamW something beside them; use AdamW alone for this.")
        self.muon = StackedMuon(matrices, lr=muon_lr, weight_decay=weight_decay)
        self.adamw = torch.optim.AdamW(others, lr=adamw_lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        super().__init__([parameter for _, parameter in matrices + others], {"lr": muon_lr})
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]  # the very same dicts: one schedule

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
    """`MuonWithAdamW` over the parameters of `model` that are trained; takes its options."""
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    tables += [parameter for name, parameter in trained if "trainable_tokens_delta" in name]  # the row of [SEG]
    return MuonWithAdamW(trained, tables, **options)
