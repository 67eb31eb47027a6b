"""The processor: batches of conversations, images for Gemma and SAM, saving and loading, no network access."""

from pathlib import Path

import pytest
import torch
from conversations import END, IMAGE, MODEL, USER, decode, encode
from PIL import Image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.datasets_builder.rows import load_image
from gemma_lisa.pipeline_gemma_lisa import ReasoningSegmentationPipeline
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.scripts.init_tiny import build_processor

EXIF_ORIENTATION = 0x0112
ROTATED = 6  # EXIF orientation: rotate the stored image 90 degrees clockwise
SIZES = {"landscape": (48, 100), "portrait": (90, 31), "square": (70, 70)}  # (height, width) in pixels


# ---------------------------------------------------------------------------------------------------------------------
# Several conversations
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding_side", [None, "left", "right"])
def test_conversations_are_padded_left_by_default(processor, make_conversation, make_picture, padding_side):
    pictures = [make_picture(30, 50, seed=1), make_picture(64, 20, seed=2)]
    conversations = [
        make_conversation(("user", IMAGE, "the red circle"), picture=pictures[0]),
        make_conversation(("user", "Hi.")),
        make_conversation(("user", IMAGE, "Where is the green square in the corner?"), picture=pictures[1]),
    ]
    options = {"add_generation_prompt": True} | ({"padding_side": padding_side} if padding_side else {})
    batch = encode(processor, conversations, **options)
    alone = [encode(processor, conversation, **options) for conversation in conversations]
    length = batch["input_ids"].shape[1]
    for row, one in enumerate(alone):
        own = one["input_ids"].shape[1]
        place = slice(0, own) if padding_side == "right" else slice(length - own, length)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert torch.equal(batch[name][row, place], one[name][0])
        assert int(batch["attention_mask"][row].sum()) == own
        padding = batch["input_ids"][row][batch["attention_mask"][row] == 0]
        assert set(padding.tolist()) <= {processor.tokenizer.pad_token_id}
    assert batch["original_sizes"].tolist() == [[30, 50], [64, 20]]
    for name in ("pixel_values", "sam_pixel_values", "original_sizes", "reshaped_input_sizes"):
        assert torch.equal(batch[name], torch.cat([one[name] for one in alone if name in one]))


def test_text_output_has_one_text_per_conversation(processor, make_conversation):
    one = make_conversation(("user", "Q"))
    text = processor.apply_chat_template(one)
    assert processor.apply_chat_template([one]) == [text]
    assert processor.apply_chat_template([one, one]) == [text, text]


def test_return_dict_false_returns_token_ids(processor, make_conversation):
    ids = processor.apply_chat_template(make_conversation(("user", "Q")), tokenize=True)
    assert torch.equal(ids, encode(processor, make_conversation(("user", "Q")))["input_ids"])


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def no_network(monkeypatch):
    """Attempts to access the network, all of which fail."""
    attempts = []

    def attempt(*args, **options):
        attempts.append(args)
        raise OSError("no network")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, attempt)
    for name in ("requests.Session.request", "httpx.Client.request", "httpx.Client.send", "urllib.request.urlopen"):
        monkeypatch.setattr(name, attempt)
    return attempts


ADDRESSES = [
    "http://127.0.0.1:9/a.png",
    "HTTPS://example.com/a.png",
    "ftp://example.com/a.png",
    "s3://bucket/a.png",
    "file:///etc/hostname",
    "//example.com/a.png",
    "data:image/png;base64,iVBORw0KGgo=",
    "iVBORw0KGgo=",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("key", ["image", "url", "path", "base64", "image_url"])
def test_urls_in_a_conversation_are_not_fetched(tiny, no_network, address, key):
    model, processor = tiny
    for value in (address, {"url": address}):
        part = {"type": "image_url" if key == "image_url" else "image", key: value}
        conversation = [{"role": "user", "content": [part, {"type": "text", "text": "Q"}]}]
        with pytest.raises(ValueError):
            processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
        if key == "image_url":
            with pytest.raises(ValueError, match="image_url"):
                processor.apply_chat_template(conversation, tokenize=False)
        else:  # pixels are not read
            assert processor.apply_chat_template(conversation, tokenize=False).count("<start_of_image>") == 1
    assert not no_network


@pytest.mark.parametrize("address", ADDRESSES)
def test_urls_of_images_are_not_fetched(tiny, no_network, address):
    model, processor = tiny
    pipe = ReasoningSegmentationPipeline(model=model, processor=processor, device="cpu")
    for images in (address, [address], [[address]], [{"url": address}]):
        with pytest.raises(ValueError):
            processor(images=images, text="<start_of_image>Q")
    for call in (
        lambda: processor.encode_images([address]),
        lambda: model.start(address, processor),
        lambda: pipe(images=address, text="Q"),
        lambda: pipe(images={"image": address, "text": "Q"}),
        lambda: pipe(images=Path(address), text="Q"),
        lambda: load_image(address, "a row"),
        lambda: load_image({"bytes": None, "path": address}, "a row"),
    ):
        with pytest.raises(ValueError):
            call()
    assert not no_network


def test_tokenizer_without_seg_is_an_error(processor):
    parts = (processor.image_processor, processor.tokenizer, processor.sam_image_processor)
    with pytest.raises(ValueError, match=r"no token \[MASK\].*init_checkpoint"):
        GemmaLisaProcessor(*parts, seg_token="[MASK]")


# ---------------------------------------------------------------------------------------------------------------------
# Saving and loading, and the system prompt
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made():
    """A processor with a system prompt."""
    processor = build_processor(32)
    processor.system_prompt = "Point at things."
    return processor


@pytest.fixture(scope="module")
def loaded(made, tmp_path_factory):
    """`made` after saving and loading."""
    folder = tmp_path_factory.mktemp("processor")
    made.save_pretrained(folder)
    return GemmaLisaProcessor.from_pretrained(folder)


def test_system_prompt_is_saved_and_applied(loaded, make_conversation):
    assert loaded.system_prompt == "Point at things."
    turns = [("user", IMAGE, "Q"), ("assistant", "A")]
    expected = f"<bos>{USER}Point at things.\n\n<start_of_image>Q{END}{MODEL}A{END}"
    assert loaded.apply_chat_template(make_conversation(*turns)) == expected
    ids = encode(loaded, make_conversation(*turns))["input_ids"][0]
    assert decode(loaded, ids) == expected.replace("<start_of_image>", "<image>")
    ((encoded, _),) = loaded.encode_conversations([make_conversation(*turns)])
    assert encoded == ids.tolist()


def test_system_turn_of_a_conversation_replaces_the_system_prompt(loaded, make_conversation):
    turns = [("system", "SYS"), ("user", "Q")]
    expected = f"<bos>{USER}SYS\n\nQ{END}"
    assert loaded.apply_chat_template(make_conversation(*turns)) == expected
    assert decode(loaded, encode(loaded, make_conversation(*turns))["input_ids"][0]) == expected


def test_conversation_is_not_modified(loaded, make_conversation):
    conversation = make_conversation(("user", IMAGE, "[SEG]"))
    before = [{**message, "content": [dict(part) for part in message["content"]]} for message in conversation]
    encode(loaded, conversation)
    assert conversation == before


def test_image_processors_are_the_pil_versions_after_loading(loaded, processor):
    for one in (loaded, processor):
        assert type(one.image_processor) is Gemma3ImageProcessorPil
        assert type(one.sam_image_processor) is SamImageProcessorPil


def test_image_processors_are_converted_to_the_pil_versions(processor):
    class OtherGemma(Gemma3ImageProcessorPil):
        pass

    class OtherSam(SamImageProcessorPil):
        pass

    made = GemmaLisaProcessor(
        OtherGemma.from_dict(processor.image_processor.to_dict()),
        processor.tokenizer,
        OtherSam.from_dict(processor.sam_image_processor.to_dict()),
    )
    assert type(made.image_processor) is Gemma3ImageProcessorPil
    assert type(made.sam_image_processor) is SamImageProcessorPil
    assert made.sam_image_processor.pad_size == processor.sam_image_processor.pad_size


def test_loaded_processor_gives_the_same_results(made, loaded, make_conversation):
    conversation = make_conversation(("user", IMAGE, "the [SEG]"), ("assistant", "It is [SEG]."))
    one, two = (encode(p, conversation, return_assistant_tokens_mask=True) for p in (made, loaded))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name])
    assert loaded.chat_template == made.chat_template and loaded.seg_token == made.seg_token


# ---------------------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------------------
def test_orientation_is_applied_before_sizes_are_measured(processor, make_picture, tmp_path):
    upright = make_picture(60, 40)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = ROTATED
    lying.save(tmp_path / "photo.png", exif=exif)
    expected = processor.encode_images([upright])
    assert expected["original_sizes"].tolist() == [[60, 40]]
    for image in (str(tmp_path / "photo.png"), Image.open(tmp_path / "photo.png")):
        encoded = processor.encode_images([image])
        for name in expected:
            assert torch.equal(encoded[name], expected[name])


def test_image_of_a_conversation_can_be_a_path(processor, make_conversation, make_picture, tmp_path):
    make_picture(20, 30).save(tmp_path / "photo.png")
    by_path = make_conversation(("user", IMAGE, "Q"), picture=str(tmp_path / "photo.png"))
    by_picture = make_conversation(("user", IMAGE, "Q"), picture=make_picture(20, 30))
    one, two = encode(processor, by_path), encode(processor, by_picture)
    for name in two:
        assert torch.equal(one[name], two[name])
    called = processor(images=[[str(tmp_path / "photo.png")]], text=[processor.apply_chat_template(by_path)])
    for name in two:
        assert torch.equal(called[name], two[name])


def test_sam_image_keeps_its_aspect_ratio_and_is_padded_right_and_below(processor, make_picture):
    encoded = processor.encode_images([make_picture(*size) for size in SIZES.values()])
    assert encoded["original_sizes"].tolist() == [list(size) for size in SIZES.values()]
    assert encoded["reshaped_input_sizes"].tolist() == [[31, 64], [64, 22], [64, 64]]
    for pixels, (height, width) in zip(
        encoded["sam_pixel_values"], encoded["reshaped_input_sizes"].tolist(), strict=True
    ):
        assert not pixels[:, height:].any() and not pixels[:, :, width:].any()
        assert pixels[:, :height, :width].any(0).float().mean() > 0.99


def test_images_can_stay_uint8_and_are_normalized_once(processor, make_picture):
    pictures = [make_picture(*size) for size in SIZES.values()]
    encoded, left = processor.encode_images(pictures), processor.encode_images(pictures, as_bytes=True)
    for name in ("pixel_values", "sam_pixel_values"):
        assert left[name].dtype == torch.uint8 and encoded[name].dtype == torch.float32
    processor.normalize_images(left)
    assert left["pixel_values"].dtype == torch.uint8, "what came in is not changed"
    again = processor.normalize_images(encoded)
    assert all(torch.equal(again[name], encoded[name]) for name in encoded)
