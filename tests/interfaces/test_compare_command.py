"""`eval.py compare`."""

import pytest
from judged_boxes import baseline, contents, mixed

from gemma_lisa.evaluation.results_file import write_results
from gemma_lisa.interfaces.compare_command import main
from gemma_lisa.safety.errors import UsageError


@pytest.fixture
def files(tmp_path):
    found = []
    for name, judged in (("a", mixed()), ("b", baseline("truth"))):
        found.append(tmp_path / f"{name}.json")
        write_results(found[-1], contents(judged, model=f"models/{name}"), judged)
    return found


def test_the_comparison_is_printed_and_written(files, tmp_path, capsys):
    page = tmp_path / "new" / "c.html"
    main([*map(str, files), "--output", str(page)])
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("  gIoU ")]
    assert "  1.0000" in line and line.endswith("*") and "95% CI: +" in line
    for words in (
        "A: models/a",
        "B: models/b",
        "24 questions",
        "changed errors (A to B):",
        "presence to right",
        "plural",
    ):
        assert words in printed, words
    assert f"wrote {page}" in printed and "models/b" in page.read_text(encoding="utf-8")
    # The data set "boxes" does not exist
    assert "the page has no images: " in printed and "--data_dir" in printed


def test_results_files_are_never_replaced(files):
    before = files[0].read_bytes()
    for arguments in (["--output", str(files[0])], ["--output", str(files[0]), "--overwrite"]):
        with pytest.raises(UsageError):
            main([*map(str, files), *arguments])
    assert files[0].read_bytes() == before


def test_a_file_of_somebody_else_is_kept(files, tmp_path):
    page = tmp_path / "mine.html"
    page.write_text("my page")
    with pytest.raises(UsageError, match="--overwrite"):
        main([*map(str, files), "--output", str(page)])
    assert page.read_text() == "my page"
    main([*map(str, files), "--output", str(page), "--overwrite"])
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("arguments", [[], ["a.json"], ["a.json", "b.json"], ["a.json", "b.json", "--output", "c.txt"]])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(UsageError):
        main(arguments)


def test_different_questions_are_refused_and_nothing_is_written(files, tmp_path):
    judged = mixed(20)
    write_results(files[1], contents(judged), judged)
    with pytest.raises(ValueError, match="no answer to 4 questions"):
        main([*map(str, files), "--output", str(tmp_path / "c.html")])
    assert not (tmp_path / "c.html").exists()
