"""bench_train.py with a small model, in its child processes."""

import json

import pytest

from gemma_lisa.benchmarks import bench_train
from gemma_lisa.benchmarks.part_clock import BACKWARD, FORWARD, key_of
from gemma_lisa.safety.errors import UsageError


def test_ways_are_compared_and_written(tmp_path, capsys):
    output, results = tmp_path / "train.json", tmp_path / "results.md"
    options = ["--images", "1", "--questions", "2", "--checkpointing", "--repeats", "1"]
    bench_train.main([*options, "--output", str(output), "--results", str(results)])
    found = json.loads(output.read_text())
    assert found["work"]["images"] == 1 and found["commit"] and "bench_train.py" in found["command"]
    assert all(found["results"][way]["seconds"] > 0 for way in ("ours", "lisa"))
    assert "| ours, s | ours, MB | lisa, s | lisa, MB |" in results.read_text() in capsys.readouterr().out


def test_parts_add_up_to_the_step_and_frozen_encoders_have_no_backward_pass(tmp_path):
    output = tmp_path / "parts.json"
    bench_train.main(["--ways", "ours", "--parts", "--repeats", "1", "--output", str(output)])
    found = json.loads(output.read_text())["results"]["ours"]
    seconds = [value for name, value in found.items() if name.endswith(", s")]
    assert sum(seconds) == pytest.approx(found["seconds"])
    for part in ("language layers", "embedding + head", "mask decoder + projector"):
        for direction in (FORWARD, BACKWARD):
            assert found[key_of("FLOP", part, direction)] > 0, (part, direction)
    for part in ("SAM encoder", "SigLIP"):
        assert found[key_of("FLOP", part, FORWARD)] > 0
        assert key_of("FLOP", part, BACKWARD) not in found


def test_growth_measures_each_value_once(tmp_path, monkeypatch, capsys):
    growth = {"images": [{"images": 1}, {"images": 2}], "questions": [{"questions": 1}, {"questions": 2}]}
    monkeypatch.setattr(bench_train, "GROWTH", growth)
    measured = []

    def compare_ways(args, work):
        measured.append((work.images, work.questions))
        return {"ours": {"seconds": float(work.images * work.questions), "peak_mb": 10.0 * work.questions}}

    monkeypatch.setattr(bench_train, "compare_ways", compare_ways)
    output = tmp_path / "growth.json"
    options = ["--images", "1", "--questions", "2", "--ways", "ours", "--growth", "--output", str(output)]
    bench_train.main(options)
    assert measured == [(1, 2), (2, 2), (1, 1)]  # (1, 2) is the unchanged work, in both quantities
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| images |")]
    assert [row.split("|")[2].strip() for row in rows] == ["1", "2"]
    found = json.loads(output.read_text())["results"]
    assert [entry["changed"] for entry in found] == [change for values in growth.values() for change in values]


def test_given_features_run_no_encoder_and_give_the_same_loss():
    work = bench_train.Work(images=2, questions=1, mask_size=(48, 64))
    plain, given = (bench_train.Step("ours", work, given_features=flag) for flag in (False, True))
    assert not given.batch.keys() & {"pixel_values", "sam_pixel_values"}
    for encoder in (given.model.model.vision_tower, given.model.sam.vision_encoder):
        encoder.forward = None
    assert given.losses()["loss"].item() == pytest.approx(plain.losses()["loss"].item(), rel=1e-5)


@pytest.mark.parametrize(
    "options, error",
    [
        (["--ways", "ours,theirs"], "--ways must be one or more of ours,lisa"),
        (["--growth", "--parts"], "--growth and --parts cannot be combined"),
        (["--sam", "vit_b"], "--sam needs --size middle"),
        (["--vocabulary", "5"], "--vocabulary must be at least"),
        (["--output", "results.txt"], "--output must be a .json file"),
    ],
)
def test_wrong_options_are_refused(options, error):
    with pytest.raises(UsageError, match=error):
        bench_train.main(options)
