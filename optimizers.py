"""Muon for weight matrices, AdamW for everything else, as one optimizer that Trainer steps, schedules and saves."""

from collections.abc import Iterable

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Two stock optimizers behind one face.

    Muon is made for the matrices inside a network; embeddings, tokens, heads, kernels, biases and norms get AdamW.

    Args:
        named_parameters: (name, parameter) of what is to be trained.
        embeddings: parameters that are matrices by shape but tables by use.
        muon_lr, adamw_lr: learning rates; a schedule scales both.
        weight_decay: of both.
        betas: AdamW's.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        embeddings: Iterable[nn.Parameter],
        muon_lr: float,
        adamw_lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ):
        tables = {id(parameter) for parameter in embeddings}
        matrices, others = [], []
        for name, parameter in named_parameters:
            inner = parameter.ndim == 2 and id(parameter) not in tables
            (matrices if inner else others).append((name, parameter))
        if not matrices or not others:
            raise ValueError("Muon needs weight matrices, and AdamW something beside them; use AdamW alone for this.")
        self.muon = torch.optim.Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=weight_decay)
        self.adamw = torch.optim.AdamW(others, lr=adamw_lr, betas=betas, weight_decay=weight_decay)
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
    return MuonWithAdamW(trained, tables, **options)
