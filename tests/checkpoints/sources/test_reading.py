"""Errors of a source name the option, the folder and what was expected."""

import json

import pytest

from gemma_lisa.checkpoints.sources.reading import check_whole, read, read_fields


def write(folder, **fields):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    return str(folder)


def fields_of(name):
    return read_fields(str(name), "--thing", ("wanted",), "a wanted model")


def test_the_fields_of_an_accepted_type_are_returned(tmp_path):
    assert fields_of(write(tmp_path / "a", model_type="wanted", size=3))["size"] == 3


def spoil_type(folder):
    write(folder, model_type="clip")
    return "a checkpoint of type 'clip'; expected a wanted model.$"


def spoil_no_type(folder):
    write(folder)
    return "no config.json with a model_type; expected a wanted model.$"


def spoil_quantized(folder):
    write(folder, model_type="wanted", quantization_config={"bits": 4})
    return "its weights are quantized. Use the original checkpoint.$"


def spoil_adapter(folder):
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return "this is an adapter. Merge it into its base model first: python scripts/export.py --model .* --output"


def spoil_file(folder):
    folder.write_text("{}")
    return "this is a file; expected a folder or a Hub name in Hugging Face format.$"


def spoil_missing(folder):
    return "the folder does not exist.$"


@pytest.mark.parametrize(
    "spoil", [spoil_type, spoil_no_type, spoil_quantized, spoil_adapter, spoil_file, spoil_missing]
)
def test_errors_name_the_option_and_the_folder(spoil, tmp_path):
    message = spoil(tmp_path / "source")
    with pytest.raises(ValueError, match=message) as caught:
        fields_of(tmp_path / "source")
    assert str(caught.value).startswith(f"--thing {tmp_path}/source: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sam_vit_h.pth", "gemma.gguf"])
def test_a_missing_file_is_not_searched_on_the_hub(name):
    with pytest.raises(ValueError, match=f"^--thing {name}: the file does not exist.$"):
        fields_of(name)


def test_an_error_of_a_library_becomes_one_line():
    def fail(name):
        raise OSError(f"{name} is bad.\nTry another one.")

    with pytest.raises(ValueError, match=r"^x: the weights cannot be read \(x is bad. Try another one\).$"):
        read(fail, "x", "weights")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"missing_keys": {"a.b", "a.a"}}, "^x: 2 weights are missing, such as a.a.$"),
        ({"unexpected_keys": {"a"}}, "^x: 1 weight is unexpected, such as a.$"),
        ({"mismatched_keys": {("a", (1,), (2,))}}, "^x: 1 weight is not of the shape in config.json, such as a.$"),
    ],
)
def test_incomplete_weights_are_errors_except_in_added_modules(found, message):
    nothing = {"missing_keys": (), "unexpected_keys": (), "mismatched_keys": ()}
    check_whole("x", nothing | {"missing_keys": {"new.weight"}}, ("new.",))
    with pytest.raises(ValueError, match=message):
        check_whole("x", nothing | found, ("new.",))
