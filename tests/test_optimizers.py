"""Muon for weight matrices, AdamW for the rest: who takes what, one schedule, and a state that goes on as it stood."""

import copy

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from gemma_lisa.optimizers import MuonWithAdamW, StackedMuon, build_muon, orthogonalize

OPTIONS = {"muon_lr": 0.02, "adamw_lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.98)}


class Net(nn.Module):
    """One of each: a table, a convolution, a matrix, biases, a norm, and a head tied to the table."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.kernel = nn.Conv2d(1, 6, 2)
        self.inner = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids, pixels):
        hidden = self.table(ids) + self.kernel(pixels).mean((2, 3))
        return self.head(self.norm(torch.tanh(self.inner(hidden))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def names_of(optimizer, parameters):
    names = {id(parameter): name for name, parameter in parameters}
    return {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}


def take_steps(net, optimizer, count, schedule=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        ids = torch.randint(7, (4,), generator=generator)
        pixels = torch.randn(4, 1, 3, 3, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(ids, pixels), ids).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


def test_matrices_go_to_muon_and_tables_kernels_biases_and_norms_to_adamw(net):
    optimizer = build_muon(net, **OPTIONS)
    parameters = list(net.named_parameters())
    assert names_of(optimizer.muon, parameters) == {"inner.weight"}
    assert names_of(optimizer.adamw, parameters) == {
        "table.weight",
        "kernel.weight",
        "kernel.bias",
        "inner.bias",
        "norm.weight",
        "norm.bias",
    }
    assert names_of(optimizer, parameters) == {name for name, _ in parameters}


def test_frozen_parameters_are_left_out_and_stay(net):
    net.kernel.requires_grad_(False)
    net.norm.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    optimizer = build_muon(net, **OPTIONS)
    assert names_of(optimizer, net.named_parameters()) == {"table.weight", "inner.weight", "inner.bias", "norm.bias"}
    take_steps(net, optimizer, 2)
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"table.weight", "head.weight", "inner.weight", "inner.bias", "norm.bias"}


def test_a_step_is_that_of_the_two_stock_optimizers(net, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # torch's Muon computes in bfloat16
    other = copy.deepcopy(net)
    take_steps(net, build_muon(net, **OPTIONS), 3)
    muon = torch.optim.Muon([other.inner.weight], lr=0.02, momentum=0.95, weight_decay=0.1)
    others = [parameter for name, parameter in other.named_parameters() if name != "inner.weight"]
    adamw = torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1)

    class Both:
        def zero_grad(self):
            muon.zero_grad(), adamw.zero_grad()

        def step(self):
            muon.step(), adamw.step()

    take_steps(other, Both(), 3)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], msg=name)


def test_matrices_of_one_shape_are_updated_as_each_alone():
    torch.manual_seed(0)
    starts = [torch.randn(shape) for shape in ((4, 6), (4, 6), (6, 4), (5, 5), (4, 6))]
    together = [nn.Parameter(start.clone()) for start in starts]
    alone = [nn.Parameter(start.clone()) for start in starts]
    optimizers = [StackedMuon(together, lr=0.1, weight_decay=0.1)]
    optimizers += [StackedMuon([matrix], lr=0.1, weight_decay=0.1) for matrix in alone]
    for _ in range(3):
        for one, other in zip(together[:-1], alone[:-1], strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(together[-1], starts[-1])  # it never got a gradient


def test_an_update_is_nearly_orthogonal_and_zero_stays_zero():
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 5)
    matrices[1] = 0
    values = torch.linalg.svdvals(orthogonalize(matrices, (3.4445, -4.775, 2.0315), 5))
    assert values[1].eq(0).all() and values[[0, 2]].min() > 0.6 and values[[0, 2]].max() < 1.3


def test_one_schedule_scales_both_rates(net):
    optimizer = build_muon(net, **OPTIONS)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=4, num_training_steps=10)
    take_steps(net, optimizer, 1, schedule)
    rates = [group["lr"] for group in optimizer.muon.param_groups + optimizer.adamw.param_groups]
    assert rates == pytest.approx([0.02 / 4, 1e-3 / 4])


def test_a_loaded_state_goes_on_as_if_nothing_had_happened(net, tmp_path):
    optimizer = build_muon(net, **OPTIONS)
    schedule = get_linear_schedule_with_warmup(optimizer, 4, 10)
    take_steps(net, optimizer, 3, schedule)
    torch.save([net.state_dict(), optimizer.state_dict(), schedule.state_dict()], tmp_path / "state.pt")
    take_steps(net, optimizer, 3, schedule, seed=1)

    other = Net()
    again = build_muon(other, **OPTIONS)
    again_schedule = get_linear_schedule_with_warmup(again, 4, 10)
    weights, state, schedule_state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(weights)
    again.load_state_dict(state)
    again_schedule.load_state_dict(schedule_state)
    take_steps(other, again, 3, again_schedule, seed=1)
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in optimizer.param_groups]
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_model_without_matrices_or_with_nothing_else_is_refused():
    for parameters in ([("a", nn.Parameter(torch.ones(3)))], [("a", nn.Parameter(torch.ones(3, 3)))]):
        with pytest.raises(ValueError, match="AdamW alone"):
            MuonWithAdamW(parameters, [], **OPTIONS)
