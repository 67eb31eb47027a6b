"""bench_inference.py with a small model, in its child processes."""

import json

import pytest

from gemma_lisa.benchmarks import bench_inference
from gemma_lisa.benchmarks.part_clock import BACKWARD, FORWARD, key_of
from gemma_lisa.safety.errors import UsageError


def test_all_cases_are_measured(tmp_path, capsys):
    output = tmp_path / "inference.json"
    options = ["--tokens", "6", "--batch", "2", "--adapter", "--repeats", "1"]
    bench_inference.main([*options, "--output", str(output)])
    found = json.loads(output.read_text())
    batches = {"in one batch", "in one batch about one image", "one at a time"}
    assert set(found["results"]) == {"ours", "lisa", "session", *batches}
    session = found["results"]["session"]
    assert 0 < session["first mask"] < session["first question"] and session["second question"] > 0
    printed = capsys.readouterr().out
    assert "lisa / ours: " in printed and "one at a time / batch: " in printed and "second / first: " in printed


def test_the_parts_of_an_answer_add_up(tmp_path, capsys):
    output = tmp_path / "parts.json"
    bench_inference.main(["--tokens", "6", "--ways", "ours", "--parts", "--repeats", "1", "--output", str(output)])
    found = json.loads(output.read_text())["results"]["parts"]
    seconds = {name: value for name, value in found.items() if name.endswith(", s")}
    assert sum(seconds.values()) == pytest.approx(found["seconds"])
    for part in ("SAM encoder", "SigLIP", "language layers", "embedding + head", "mask decoder + projector"):
        assert found[key_of("FLOP", part, FORWARD)] > 0, part
        assert key_of("FLOP", part, BACKWARD) not in found
    assert "| part (one question) |" in capsys.readouterr().out


def test_a_batch_without_our_way_is_refused():
    with pytest.raises(UsageError, match="--batch needs the way ours"):
        bench_inference.main(["--ways", "lisa", "--batch", "2"])


def test_parts_without_our_way_are_refused():
    with pytest.raises(UsageError, match="--parts needs the way ours"):
        bench_inference.main(["--ways", "lisa", "--parts"])
