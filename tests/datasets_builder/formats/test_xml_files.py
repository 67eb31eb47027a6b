"""XML is parsed with bounded memory, and entities are refused."""

import pytest

from gemma_lisa.datasets_builder.formats import xml_files
from gemma_lisa.datasets_builder.formats.xml_files import parse_xml

BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><a>&c;</a>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>'
REMOTE = '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><a/>'


def events(file, **options):
    found, texts = [], []
    parse_xml(
        file,
        lambda name, attributes, at: found.append((name, attributes, at)),
        lambda name, at: found.append((name, at)),
        texts.append,
        **options,
    )
    return found, "".join(texts)


def test_elements_have_their_bytes(tmp_path):
    file = tmp_path / "1.xml"
    file.write_bytes('<?xml version="1.0" encoding="UTF-8"?><a é="1"><b>ü &lt;&#65;</b><c x="&amp;"/></a>'.encode())
    found, text = events(file)
    assert [event[0] for event in found] == ["a", "b", "b", "c", "c", "a"] and text == "ü <A"
    assert found[0][1] == {"é": "1"} and found[3][1] == {"x": "&"}
    content = file.read_bytes()
    assert content[found[1][2] :].startswith(b"<b>") and content[found[2][1] :].startswith(b"</b>")


@pytest.mark.parametrize(("name", "text"), [("b", "ü"), ("c", "")])
def test_a_part_is_read_alone(tmp_path, name, text):
    file = tmp_path / "1.xml"
    file.write_text('<a><b y="é">ü</b>\n<c x="1"/></a>', encoding="utf-8")
    found, _ = events(file)
    start, end = (event[-1] for event in found if event[0] == name)
    part, inside = events(file, span=(start, end), close=name)
    assert [event[0] for event in part] == [name, name] and inside == text
    assert part[0][1] == next(event[1] for event in found if event[0] == name)


@pytest.mark.parametrize("content", [BOMB, EXTERNAL, REMOTE])
def test_document_types_are_refused(tmp_path, content):
    (tmp_path / "1.xml").write_text(content)
    with pytest.raises(ValueError, match="1.xml has a document type"):
        events(tmp_path / "1.xml")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not valid XML"),
        (b"<a><b></a>", "is not valid XML"),
        (b"<a>\xff</a>", "is not valid XML"),
        (b"<a>" * 100_000, "is not valid XML"),
        (b'<?xml version="1.0" encoding="latin-1"?><a/>', "must be in UTF-8, got latin-1"),
        ("<a/>".encode("utf-16"), "must be in UTF-8"),
        ("<a/>".encode("utf-16-le"), "must be in UTF-8"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, reason):
    (tmp_path / "1.xml").write_bytes(content)
    with pytest.raises(ValueError, match=f"1.xml {reason}") as error:
        events(tmp_path / "1.xml")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1.xml cannot be read"):
        events(tmp_path / "1.xml")


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\xef\xbb\xbf<?xml version='1.0' encoding = 'utf8' ?>", b" \n"])
def test_declarations_and_byte_order_marks_are_read(tmp_path, start):
    (tmp_path / "1.xml").write_bytes(start + b"<a/>")
    assert [event[0] for event in events(tmp_path / "1.xml")[0]] == ["a", "a"]


def test_a_file_is_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(xml_files, "CHUNK", 3)
    (tmp_path / "1.xml").write_text('<a b="123456789"><c/>text</a>')
    found, text = events(tmp_path / "1.xml")
    assert [event[0] for event in found] == ["a", "c", "c", "a"] and text == "text" and found[1][2] == 17
