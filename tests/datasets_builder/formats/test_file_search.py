"""Files are found by patterns, and the largest of many are looked at."""

from gemma_lisa.datasets_builder.formats.file_search import MAX_LOOKED_AT, largest, matching, visible


def test_patterns_match_visible_files_only(tmp_path):
    for name in ("a.json", "b/instances_1.json", "b/x.json", ".a.json", "__MACOSX/a.json", "b/.h/c.json", "c/d/e.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.json").mkdir()

    def found(pattern):
        return [path.relative_to(tmp_path).as_posix() for path in matching(tmp_path, pattern, visible)]

    assert found("*.json") == ["a.json"] and found("b/*.json") == ["b/instances_1.json", "b/x.json"]
    assert found("*/instances_*.json") == ["b/instances_1.json"] and found("c/*/*.json") == ["c/d/e.json"]
    assert found("missing/*.json") == []


def test_the_largest_of_many_files_are_returned(tmp_path):
    paths = [tmp_path / f"{number}.json" for number in range(MAX_LOOKED_AT + 9)]
    for number, path in enumerate(paths):
        path.write_text("x" * number)
    assert set(largest([*paths, tmp_path / "missing"])) == set(paths[9:])
    assert largest(paths[:3]) == paths[:3]
