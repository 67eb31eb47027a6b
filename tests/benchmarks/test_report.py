"""Results of benchmarks are printed, and appended to Markdown files only."""

import pytest

from gemma_lisa.benchmarks.report import publish


def test_lines_are_printed_and_appended(tmp_path, capsys):
    output = tmp_path / "results.md"
    output.write_text("before\n")
    publish(["| a |", "| b |"], output)
    publish(["| c |"], None)
    assert output.read_text() == "before\n| a |\n| b |\n"
    assert capsys.readouterr().out.split() == ["|", "a", "|", "|", "b", "|", "|", "c", "|"]


def test_other_files_than_markdown_are_refused_and_not_changed(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="can only be appended to a Markdown file .*, got .*results.json"):
        publish(["| a |"], tmp_path / "results.json")
    assert (tmp_path / "results.json").read_text() == "{}"
