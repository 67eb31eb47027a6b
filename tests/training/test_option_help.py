"""The help of train.py: --help has the most used options on a few screens, --help_all has every option."""

import re
from dataclasses import MISSING, fields
from enum import Enum

import pytest

from gemma_lisa.training.arguments import CLASSES, parse
from gemma_lisa.training.option_help import GROUPS, SHORT, help_lines, help_of, options_of
from gemma_lisa.training.option_table import OPTIONS

KNOWN = options_of(CLASSES)
THEIRS_OF_HELP = (
    *("learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("bf16", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "output_dir", "seed", "report_to"),
    *("logging_steps", "warmup_steps", "lr_scheduler_type", "use_cpu", "resume_from_checkpoint"),
)


def listed(lines):
    return re.findall(r"^  --(\w+)", "\n".join(lines), re.MULTILINE)


def test_help_all_lists_every_option_once():
    names = listed(help_lines(CLASSES, with_all=True))
    assert {field.name for part in CLASSES for field in fields(part)} <= set(names)
    assert len(names) == len(set(names)) and {"config", "help", "help_all"} <= set(names)


def test_help_lists_the_own_and_the_most_used_options_in_at_most_150_lines():
    lines = help_lines(CLASSES)
    own = {field.name for part in CLASSES[:2] for field in fields(part)}
    own |= {"global_batch_size", "muon_learning_rate", "expected_processes", "fresh", "self_check", "hub_license"}
    names = listed(lines)
    assert {"config", *own, *THEIRS_OF_HELP} <= set(names)
    assert len(lines) <= 150 and all(len(line) <= 120 for line in lines)
    text = "\n".join(lines)
    assert text.index("Examples:") < text.index("--config FILE") and "--resume_from_checkpoint OUT/checkpoint-" in text


@pytest.mark.parametrize("name", list(KNOWN))
def test_every_option_has_a_help_text_with_its_default(name):
    text = help_of(name, KNOWN)
    assert text and ("(default: " in text or name in ("model", "debug")), text
    default = KNOWN[name].field.default
    default = default.value if isinstance(default, Enum) else default
    if name in SHORT and default is not MISSING and default is not None:
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert f"(default: {shown})" in text


def test_an_unsupported_option_has_its_reason_and_a_condition_is_named():
    lines = help_lines(CLASSES, with_all=True)
    text = " ".join(" ".join(lines).split())
    for option in OPTIONS.values():
        if option.reader is None:
            assert option.reason in text
    assert "steps between evaluations with eval_strategy steps (default: logging_steps); needs eval_strategy" in text
    assert not {name for names in GROUPS.values() for name in names} - {*KNOWN, "config"}
    assert text.index("Not supported:") < text.index("--fp16 ")


def test_an_option_of_a_newer_release_is_listed_as_unsupported(monkeypatch):
    monkeypatch.delitem(OPTIONS, "neftune_noise_alpha")
    text = " ".join("\n".join(help_lines(CLASSES, with_all=True)).split())
    assert re.search(r"Not supported:.*--neftune_noise_alpha it is new in this release of transformers", text)


@pytest.mark.parametrize(("argument", "words"), [("--help", "--lora_rank INT"), ("--help_all", "--torch_compile")])
def test_help_is_printed_without_any_other_option(capsys, argument, words):
    with pytest.raises(SystemExit) as leaving:
        parse(["--config", "no/such.yaml", argument])
    assert leaving.value.code == 0 and words in capsys.readouterr().out
