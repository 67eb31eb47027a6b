"""JSON files of data sets: any UTF encoding, one-line errors, and an unchanged garbage collector."""

import gc
import json

import pytest

from gemma_lisa.datasets_builder.formats.json_files import read_json, read_records, refuse


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_is_read_in_any_utf_encoding(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('{"name": "Zürich 😀"}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"name": "Zürich 😀"}


def test_the_hook_is_called_for_every_object(tmp_path):
    (tmp_path / "a.json").write_text('{"inner": [{"n": 1}, {"n": 2}]}')
    seen = []
    read_json(tmp_path / "a.json", object_hook=lambda record: seen.append(dict(record)) or len(seen))
    assert seen == [{"n": 1}, {"n": 2}, {"inner": [1, 2]}]


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\xfa", b"[" * 100_000])
def test_invalid_json_is_one_line_with_the_file_and_the_advice(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError) as refused:
        read_json(tmp_path / "a.json", "export it again")
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'a.json'} cannot be read as JSON (")
    assert message.endswith("; export it again.") and "\n" not in message


@pytest.mark.parametrize("content", ["[]", "{"])
@pytest.mark.parametrize("is_on", [True, False])
def test_the_garbage_collector_is_disabled_only_while_reading(tmp_path, content, is_on):
    (tmp_path / "a.json").write_text(content)
    try:
        (gc.enable if is_on else gc.disable)()
        if content == "[]":
            read_json(tmp_path / "a.json")
        else:
            with pytest.raises(ValueError):
                read_json(tmp_path / "a.json")
        assert gc.isenabled() == is_on
        during = []
        (tmp_path / "b.json").write_text("{}")
        read_json(tmp_path / "b.json", object_hook=lambda record: during.append(gc.isenabled()))
        assert during == [False]
    finally:
        gc.enable()


def test_read_records_returns_the_top_level_list(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"id": 1}]))
    assert read_records(tmp_path / "a.json") == [{"id": 1}]
    (tmp_path / "a.json").write_text(json.dumps({"records": []}))
    with pytest.raises(ValueError, match="a.json: the top level must be a list of records; download the file again."):
        read_records(tmp_path / "a.json")


def test_refuse_raises_the_error_of_a_bad_record():
    error = ValueError("broken")
    with pytest.raises(ValueError) as refused:
        refuse(error)
    assert refused.value is error
