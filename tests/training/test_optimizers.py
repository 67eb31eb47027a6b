"""Parameter groups with their own rates; Muon and AdamW: their parameters, one schedule, saved states."""

import copy
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import get_linear_schedule_with_warmup

from gemma_lisa.training.optimizers import (
    OTHER,
    MuonWithAdamW,
    StackedMuon,
    build_muon,
    describe_groups,
    orthogonalize,
    parameter_groups,
    part_of,
    reads_optim_args,
    reads_optimizer_option,
)
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

OPTIONS = {"muon_lr": 0.02, "adamw_lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.98)}


class Net(nn.Module):
    """One of each: an embedding table, a convolution, a matrix, biases, a norm, and a head tied to the table."""

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


def test_frozen_parameters_are_not_in_the_optimizer_and_do_not_change(net):
    net.kernel.requires_grad_(False)
    net.norm.weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    optimizer = build_muon(net, **OPTIONS)
    assert names_of(optimizer, net.named_parameters()) == {"table.weight", "inner.weight", "inner.bias", "norm.bias"}
    take_steps(net, optimizer, 2)
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"table.weight", "head.weight", "inner.weight", "inner.bias", "norm.bias"}


def test_a_step_equals_that_of_the_two_stock_optimizers(net, monkeypatch):
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


def test_matrices_of_one_shape_are_updated_as_if_one_by_one():
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
    assert torch.equal(together[-1], starts[-1])  # it has no gradient


SHARED_SHAPES = ((4, 6), (4, 6), (6, 4), (5, 5), (4, 6))


def steps_on_random_gradients(seen):
    """Return matrices after two steps. seen: gets the number of matrices of each call of `orthogonalize`."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape)) for shape in SHARED_SHAPES]
    optimizer = StackedMuon(matrices, lr=0.1, weight_decay=0.1)

    def watched(stack, *others):
        seen.append(len(stack))
        return orthogonalize(stack, *others)

    with patch("gemma_lisa.training.optimizers.orthogonalize", watched):
        for _ in range(2):
            for matrix in matrices:
                matrix.grad = torch.randn_like(matrix)
            optimizer.step()
    return [matrix.detach() for matrix in matrices]


def share_a_step(rank, folder):
    """Run the steps as one of two processes, and save what it computed."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    seen = []
    torch.save({"matrices": steps_on_random_gradients(seen), "seen": seen}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_share_the_work_and_get_the_same_matrices(tmp_path):
    torch.multiprocessing.spawn(share_a_step, (str(tmp_path),), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    # 3, 1 and 1 matrices of a shape; those with more rows than columns are transposed in a second call
    assert [share["seen"] for share in shares] == [[2, 1, 1, 1] * 2, [1, 0, 0, 0] * 2]
    alone = steps_on_random_gradients([])
    for matrices in zip(alone, shares[0]["matrices"], shares[1]["matrices"], strict=True):
        torch.testing.assert_close(matrices[0], matrices[1])
        assert torch.equal(matrices[1], matrices[2])


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


def test_a_loaded_state_gives_the_same_steps(net, tmp_path):
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


def test_a_model_without_matrices_or_with_matrices_only_is_refused():
    for parameters in ([("a", nn.Parameter(torch.ones(3)))], [("a", nn.Parameter(torch.ones(3, 3)))]):
        with pytest.raises(ValueError, match="Muon needs trained weight matrices"):
            MuonWithAdamW(parameters, [], **OPTIONS)


def test_adamw_has_the_given_epsilon_with_muon(net):
    assert build_muon(net, **OPTIONS, eps=0.5).adamw.param_groups[0]["eps"] == 0.5


# --- what an optimizer reads ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("optim", "optim_args", "read"),
    [
        ("sgd", "momentum=0.9", True),
        ("sgd", "nesterov=true, momentum=0.9", True),
        ("sgd", "momentun=0.9", False),
        ("sgd", "momentum=0.9,momentun=0.9", False),
        ("sgd", "weight_decay=0.1", False),  # the groups set it
        ("adamw_torch", "momentum=0.9", False),
        ("ademamix", "alpha=5.0", True),  # its default
        ("rmsprop", "centered=true", True),
    ],
)
def test_optim_args_that_an_optimizer_does_not_read_are_found(optim, optim_args, read):
    args = GemmaLisaTrainingArguments(output_dir="out", use_cpu=True, optim=optim, optim_args=optim_args)
    assert reads_optim_args(args) == read
    args.muon_learning_rate = 0.1
    assert not reads_optim_args(args)


@pytest.mark.parametrize(
    ("optim", "betas", "eps"),
    [("adamw_torch", True, True), ("adafactor", False, False), ("sgd", False, False), ("lion_32bit", True, False)],
)
def test_options_of_adam_that_an_optimizer_takes_are_known(optim, betas, eps):
    args = GemmaLisaTrainingArguments(output_dir="out", use_cpu=True, optim=optim)
    assert (reads_optimizer_option(args, "betas"), reads_optimizer_option(args, "eps")) == (betas, eps)
    args.muon_learning_rate = 0.1
    assert reads_optimizer_option(args, "betas") and reads_optimizer_option(args, "eps")


# --- groups with their own rates -------------------------------------------------------------------------------------
NO_RATES = {"lora": None, "bridge": None, "decoder": None}


def adapted(model):
    """The small model with LoRA and a trained embedding of [SEG]."""
    return get_peft_model(
        copy.deepcopy(model),
        LoraConfig(
            r=2,
            target_modules=r"model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
            trainable_token_indices=[model.config.seg_token_id],
            modules_to_save=["seg_projector", "mask_decoder"],
            use_dora=True,
        ),
    )


def test_muon_does_not_train_the_embedding_of_seg(tiny):
    model = adapted(tiny[0])
    optimizer = build_muon(model, muon_lr=0.01, adamw_lr=1e-3, weight_decay=0.0, betas=(0.9, 0.98))
    [row] = [parameter for name, parameter in model.named_parameters() if "trainable_tokens_delta" in name]
    assert any(parameter is row for group in optimizer.adamw.param_groups for parameter in group["params"])


def test_every_trained_parameter_is_in_one_group_of_its_part(tiny):
    model = adapted(tiny[0])
    groups = parameter_groups(model, 1e-5, 0.1, {"lora": 2e-4, "bridge": 1e-4, "decoder": 3e-5})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["part"], group["lr"], group["weight_decay"])
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, (part, rate, _) in found.items():
        words = {"lora": ".lora_", "bridge": ("seg_projector", "token_adapter"), "decoder": "mask_decoder"}[part]
        assert any(word in name for word in ([words] if isinstance(words, str) else words)), name
        assert rate == {"lora": 2e-4, "bridge": 1e-4, "decoder": 3e-5}[part]
    decays = {name for name, (*_, decay) in found.items() if decay}
    assert {found[name][2] for name in decays} == {0.1}
    shapes = dict(model.named_parameters())
    tables = ("trainable_tokens_delta", "iou_token", "mask_tokens")
    assert decays == {name for name in found if shapes[name].ndim > 1 and not any(table in name for table in tables)}


def test_matrices_have_weight_decay_and_biases_norms_and_tables_have_none(tiny):
    model = copy.deepcopy(tiny[0]).requires_grad_(True)
    model.sam.shared_image_embedding.requires_grad_(False)  # a constant
    groups = parameter_groups(model, 1e-5, 0.1, NO_RATES)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    tables = ("embed", "rel_pos", "iou_token", "mask_tokens")
    shapes = dict(model.named_parameters())
    expected = {
        name
        for name, parameter in shapes.items()
        if parameter.ndim > 1
        and parameter.requires_grad
        and (not any(table in name for table in tables) or ".patch_emb" in name or "mask_embed.conv" in name)
    }
    assert decayed == expected
    assert {group["part"] for group in groups} == {"bridge", "decoder", OTHER}
    assert {group["lr"] for group in groups} == {1e-5}


def test_a_rate_for_a_part_that_is_frozen_is_refused(tiny):
    model = copy.deepcopy(tiny[0]).requires_grad_(False)
    model.seg_projector.requires_grad_(True)
    with pytest.raises(ValueError, match="lora_learning_rate: no parameter of this part is trained"):
        parameter_groups(model, 1e-5, 0.0, {**NO_RATES, "lora": 1e-4})
    assert [group["lr"] for group in parameter_groups(model, 1e-5, 0.0, {**NO_RATES, "bridge": 1e-4})] == [1e-4] * 2


def test_wrappers_do_not_change_the_part():
    assert part_of("module.base_model.model.seg_projector.modules_to_save.default.0.weight") == "bridge"
    assert part_of("model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight") == "lora"
    assert part_of("_orig_mod.sam.mask_decoder.iou_token.weight") == "decoder"
    assert part_of("sam.vision_encoder.pos_embed") == part_of("model.language_model.norm.weight") == OTHER


def test_each_group_is_described_in_a_line():
    group = {"part": "lora", "lr": 2e-4, "weight_decay": 0.0, "params": [torch.zeros(40, 50), torch.zeros(3)]}
    assert describe_groups([group]) == [
        "lora       learning rate 2.0e-04, weight decay 0: 2,003 parameters in 2 tensors"
    ]


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit"])
def test_stock_optimizers_accept_the_groups_and_one_schedule_scales_all_rates(tiny, tmp_path, optim):
    model = adapted(tiny[0])
    args = GemmaLisaTrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        optim=optim,
        learning_rate=1e-5,
        lora_learning_rate=2e-4,
        bridge_learning_rate=1e-4,
        weight_decay=0.1,
        warmup_steps=4,
        lr_scheduler_type="linear",
    )
    trainer = GemmaLisaTrainer(model=model, args=args, train_dataset=[])
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    groups = trainer.optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    rates = {group["part"]: group["lr"] for group in groups}
    assert rates == pytest.approx({"lora": 2e-4 / 2, "bridge": 1e-4 / 2, "decoder": 1e-5 / 2})
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_an_optimizer_that_makes_its_own_groups_is_refused(tiny, tmp_path, monkeypatch):
    args = GemmaLisaTrainingArguments(output_dir=str(tmp_path), use_cpu=True, optim="galore_adamw")
    made = (torch.optim.AdamW, {"params": []})
    monkeypatch.setattr("transformers.Trainer.get_optimizer_cls_and_kwargs", staticmethod(lambda args, model: made))
    with pytest.raises(ValueError, match="galore_adamw is not supported: it makes its own parameter groups"):
        GemmaLisaTrainer.get_optimizer_cls_and_kwargs(args, tiny[0])
