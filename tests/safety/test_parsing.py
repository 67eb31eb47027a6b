import pytest
import yaml

from gemma_lisa.safety.parsing import MAX_YAML_CHARACTERS, csv_delimiter, parse_json, parse_yaml, read_yaml


def growing(depth, first="[x, x]", item="[*a{0}, *a{0}]"):
    """Return a YAML text of `depth` lists, each of which contains the previous one twice."""
    lists = [f"&a0 {first}", *(f"&a{at} {item.format(at - 1)}" for at in range(1, depth))]
    return f"x: [{', '.join(lists)}]\n"


MERGED = "a0: &a0 {k: 1}\n" + "".join(f"a{at}: &a{at} {{<<: [*a{at - 1}, *a{at - 1}]}}\n" for at in range(1, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (growing(24), "aliases"),
        (growing(400), "aliases"),
        (MERGED, "aliases"),
        (f"x: &a {'y' * 100_000}\nz: [{', '.join(['*a'] * 1000)}]\n", "aliases"),
        ("&a [*a]\n", "aliases"),
        ("[" * 100_000, "nested too deep"),
        ("- " * 100_000, "nested too deep"),
        (f"n: {'9' * 5000}\n", "a number of 5,000 characters"),
        (f"n: 1{':59' * 300_000}\n", "a number of 900,001 characters"),
        ("x" * (MAX_YAML_CHARACTERS + 1), "more than 1,000,000 characters"),
        ("a: 1\nb: 2\na: 3\n", "'a' occurs twice"),
        ("x: !!bool foo", "foo"),
        ("x: !!timestamp foo", "."),
        ("x: !!int ''", "."),
        ("x: 2001-99-99", "month"),
        (f"x: !{'t' * 50_000} 1", "constructor"),
        ("x: !!python/object/apply:os.system [true]", "constructor"),
        ("a: b: c", "mapping values"),
        ("\0", "special characters"),
        ("? [a, b]\n: 1\n", "unhashable"),
    ],
)
def test_invalid_or_growing_yaml_gives_a_short_error(text, said):
    with pytest.raises(ValueError, match=said) as refused:
        parse_yaml(text)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1: cat\n2: dog\n",
        "base: &b {weight: 1, sets: [ade20k]}\nother: {<<: *b, weight: 2}\nagain: *b\n",
        "".join(f"{number}: class {number}\n" for number in range(1000)),
        "a: 2001-12-14\nb: 0x1F\nc: 1e3\nd: ~\ne: yes\n",
    ],
)
def test_valid_yaml_is_parsed_as_by_pyyaml(text):
    assert parse_yaml(text) == yaml.safe_load(text)


def test_the_yaml_file_is_named_in_errors(tmp_path):
    for name, content in (("grows.yaml", growing(24).encode()), ("latin.yaml", b"a: \xe9"), ("big.yaml", b"#" * 10**7)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as refused:
            read_yaml(tmp_path / name)
        assert len(str(refused.value)) < 500 + len(str(tmp_path))
    with pytest.raises(ValueError, match=r"none.yaml cannot be read"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 5000,
        "[1,",
        b"\xff\xfe\x00",
        "",
        "{'a': 1}",
        '{"a": ' + "1" * 10**6 + "}",
    ],
)
def test_invalid_json_gives_a_short_error(text):
    with pytest.raises(ValueError) as refused:
        parse_json(text)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [
        ("image,query", ","),
        ("image;query\r\n", ";"),
        ("image\tquery", "\t"),
        ("a;b;c,d", ";"),
        ("query", ","),
        ("", ","),
    ],
)
def test_the_delimiter_of_a_csv_file_is_the_most_common_in_its_first_line(line, delimiter):
    assert csv_delimiter(line) == delimiter
