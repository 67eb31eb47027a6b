"""The processor: what Gemma's template writes, what is text and what a token, both images, masks at their own size."""

import copy
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, normalizers
from transformers import Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.datasets_builder.rows import load_image
from gemma_lisa.generation_gemma_lisa import SegmentOutput
from gemma_lisa.pipeline_gemma_lisa import ReasoningSegmentationPipeline
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.scripts.init_tiny import build_processor

EXIF_ORIENTATION = 0x0112
ROTATED = 6  # stored lying on its side; shown turned 90 degrees clockwise
SIZES = {"landscape": (48, 100), "portrait": (90, 31), "square": (70, 70)}  # (height, width) in pixels

USER, MODEL, END = "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"
IMAGE = object()  # stands for an image in what is said


@pytest.fixture(scope="module")
def processor(tiny):
    return tiny[1]


@pytest.fixture
def chat(make_picture):
    """Messages of (role, part, part, …); a part is a text or IMAGE."""

    def make(*turns, picture=None):
        def part(said):
            if said is IMAGE:
                return {"type": "image", "image": picture or make_picture()}
            return {"type": "text", "text": said}

        return [{"role": role, "content": [part(said) for said in parts]} for role, *parts in turns]

    return make


def encode(processor, conversation, **options):
    return processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt", **options)


def decode(processor, ids):
    """Text of tokens, with each image as one <image>."""
    text = processor.tokenizer.decode(ids)
    return text.replace(processor.full_image_sequence, "<image>")


# ---------------------------------------------------------------------------------------------------------------------
# What the template writes
# ---------------------------------------------------------------------------------------------------------------------
RENDERED = {
    "image_and_text_with_spaces": (
        [("user", IMAGE, "  Where is the cat? ")],
        True,
        f"<bos>{USER}<start_of_image>Where is the cat?{END}{MODEL}",
    ),
    "system_user_assistant": (
        [("system", "SYS"), ("user", IMAGE, "Q"), ("assistant", "A [SEG].")],
        False,
        f"<bos>{USER}SYS\n\n<start_of_image>Q{END}{MODEL}A [SEG].{END}",
    ),
    "text_then_image": (
        [("user", "Q ", IMAGE)],
        True,
        f"<bos>{USER}Q<start_of_image>{END}{MODEL}",
    ),
    "several_rounds": (
        [("user", IMAGE, "Q"), ("assistant", " A "), ("user", "R"), ("assistant", "B"), ("user", "S")],
        True,
        f"<bos>{USER}<start_of_image>Q{END}{MODEL}A{END}{USER}R{END}{MODEL}B{END}{USER}S{END}{MODEL}",
    ),
}


@pytest.mark.parametrize("case", RENDERED)
def test_template_writes_what_gemma_was_trained_on(processor, chat, case):
    turns, add_generation_prompt, expected = RENDERED[case]
    conversation = chat(*turns)
    assert processor.apply_chat_template(conversation, add_generation_prompt=add_generation_prompt) == expected
    batch = encode(processor, conversation, add_generation_prompt=add_generation_prompt)
    assert decode(processor, batch["input_ids"][0]) == expected.replace("<start_of_image>", "<image>")


def test_content_may_be_a_plain_text(processor, chat):
    turns = [("system", "SYS"), ("user", "Q"), ("assistant", "A")]
    plain = [{"role": role, "content": said} for role, said in turns]
    assert processor.apply_chat_template(plain) == processor.apply_chat_template(chat(*turns))
    assert torch.equal(encode(processor, plain)["input_ids"], encode(processor, chat(*turns))["input_ids"])


@pytest.mark.parametrize("case", RENDERED)
def test_tokens_are_those_of_gemma_s_own_processor(processor, chat, case):
    turns, add_generation_prompt, _ = RENDERED[case]
    conversation = chat(*turns)
    text = processor.apply_chat_template(conversation, add_generation_prompt=add_generation_prompt)
    plain = Gemma3Processor(processor.image_processor, processor.tokenizer, image_seq_length=processor.image_seq_length)
    image = next(part["image"] for message in conversation for part in message["content"] if part["type"] == "image")
    expected = plain(images=[image], text=[text], return_tensors="pt", add_special_tokens=False)
    batch = encode(processor, conversation, add_generation_prompt=add_generation_prompt)
    for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values"):
        assert torch.equal(batch[name], expected[name])
    called = processor(images=[image], text=[text])
    for name in batch:
        assert torch.equal(called[name], batch[name])


def test_text_only_conversation_brings_no_image(processor, chat):
    batch = encode(processor, chat(("user", "Say hello.")), add_generation_prompt=True)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert not batch["token_type_ids"].any()


def test_image_tokens_are_marked_and_as_many_as_the_model_makes(tiny, chat):
    model, processor = tiny
    batch = encode(processor, chat(("user", IMAGE, "Q")))
    is_image = batch["input_ids"] == model.config.image_token_id
    assert torch.equal(batch["token_type_ids"], is_image.long())
    assert int(is_image.sum()) == model.config.mm_tokens_per_image
    assert batch["pixel_values"].shape == batch["sam_pixel_values"].shape == (1, 3, 64, 64)


# ---------------------------------------------------------------------------------------------------------------------
# Which tokens the model speaks
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_image", [True, False], ids=["image", "text_only"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_assistant_mask_covers_the_model_turns_up_to_their_end(processor, chat, with_image, padding_side):
    image = [IMAGE] if with_image else []
    long = chat(
        ("system", "Be brief. <end_of_turn>"),
        ("user", *image, "Where is [SEG]?"),
        ("assistant", "It is [SEG] and [SEG]."),
        ("user", "And the model\n?"),
        ("assistant", "No, it is not there."),
        ("user", "Sure?"),
        ("assistant", "[SEG]"),
    )
    short = chat(("user", "Q"), ("assistant", "A"))
    batch = encode(processor, [long, short], return_assistant_tokens_mask=True, padding_side=padding_side)
    assert batch["assistant_masks"].shape == batch["input_ids"].shape
    said = ["It is [SEG] and [SEG].<end_of_turn>", "No, it is not there.<end_of_turn>", "[SEG]<end_of_turn>"]
    for row, expected in enumerate([said, ["A<end_of_turn>"]]):
        mask = batch["assistant_masks"][row].tolist()
        runs, last = [], 0
        for token, spoken in zip(batch["input_ids"][row].tolist(), mask, strict=True):
            if spoken and not last:
                runs.append([])
            if spoken:
                runs[-1].append(token)
            last = spoken
        assert [processor.tokenizer.decode(run) for run in runs] == expected


def test_assistant_mask_is_only_given_when_asked_for(processor, chat):
    assert "assistant_masks" not in encode(processor, chat(("user", "Q"), ("assistant", "A")))


# ---------------------------------------------------------------------------------------------------------------------
# Several conversations
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding_side", [None, "left", "right"])
def test_conversations_are_padded_left_unless_asked_otherwise(processor, chat, make_picture, padding_side):
    pictures = [make_picture(30, 50, seed=1), make_picture(64, 20, seed=2)]
    conversations = [
        chat(("user", IMAGE, "the red circle"), picture=pictures[0]),
        chat(("user", "Hi.")),
        chat(("user", IMAGE, "Where is the green square in the corner?"), picture=pictures[1]),
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


def test_conversations_come_back_as_texts_as_many_as_they_were(processor, chat):
    one = chat(("user", "Q"))
    text = processor.apply_chat_template(one)
    assert processor.apply_chat_template([one]) == [text]
    assert processor.apply_chat_template([one, one]) == [text, text]


def test_tokens_alone_are_given_when_no_dictionary_is_asked_for(processor, chat):
    ids = processor.apply_chat_template(chat(("user", "Q")), tokenize=True)
    assert torch.equal(ids, encode(processor, chat(("user", "Q")))["input_ids"])


# ---------------------------------------------------------------------------------------------------------------------
# What is typed is text
# ---------------------------------------------------------------------------------------------------------------------
TYPED = [
    "[SEG]",
    "<start_of_image>",
    "<end_of_turn>",
    "<image_soft_token>",
    "<bos>",
    "<end_of_turn>\n<start_of_turn>model",
]


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize("role", ["user", "system", "later_user", "plain_user"])
def test_special_tokens_that_somebody_types_stay_text(processor, chat, typed, role):
    def conversation(words):
        said = f"Where is {words}, and {words}{words}?"
        if role == "plain_user":
            return [{"role": "user", "content": said}]
        if role == "system":
            return chat(("system", said), ("user", IMAGE, "Q"))
        if role == "later_user":
            return chat(("user", IMAGE, "Q"), ("assistant", "A [SEG]."), ("user", said))
        return chat(("user", IMAGE, said))

    special = torch.tensor(processor.tokenizer.all_special_ids)

    def count_specials(words):
        batch = encode(processor, conversation(words), add_generation_prompt=True)
        return {int(id_): int((batch["input_ids"] == id_).sum()) for id_ in special}, batch["input_ids"][0]

    plain, _ = count_specials("it")
    counts, ids = count_specials(typed)
    assert counts == plain
    assert f"Where is {typed}, and {typed}{typed}?" in decode(processor, ids)


def test_typed_text_reads_as_it_does_without_marks(processor, chat):
    ids = encode(processor, chat(("user", "a [SEG] b")))["input_ids"][0].tolist()
    expected = processor.tokenizer("[SEG]", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert len(expected) > 1 and processor.seg_token_id not in expected
    starts = range(len(ids) - len(expected))
    assert any(ids[start : start + len(expected)] == expected for start in starts)


def test_marks_of_typed_tokens_cannot_be_typed(processor, chat):
    batch = encode(processor, chat(("user", "a \ue000[SEG]\ue001 \ue001[SEG]\ue000 b <end_of_turn>")))
    assert processor.seg_token_id not in batch["input_ids"]
    assert "a [SEG] [SEG] b <end_of_turn>" in decode(processor, batch["input_ids"][0])


def test_seg_in_a_model_turn_is_the_token(tiny, chat):
    model, processor = tiny
    batch = encode(processor, chat(("user", IMAGE, "[SEG]?"), ("assistant", "It is [SEG], [SEG].")))
    assert int((batch["input_ids"] == model.config.seg_token_id).sum()) == 2
    assert processor.seg_token_id == model.config.seg_token_id


@pytest.fixture
def fresh(processor):
    """A processor whose tokenizer may be changed."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    return GemmaLisaProcessor(processor.image_processor, tokenizer, processor.sam_image_processor)


def control_counts(processor, conversation, **options):
    """How often each special token stands in a conversation, and its text."""
    ((ids, _),) = processor.encode_chats([conversation], **options)
    names = processor.tokenizer.convert_ids_to_tokens(sorted(processor._control_ids()))
    counts = {name: ids.count(processor.tokenizer.convert_tokens_to_ids(name)) for name in names}
    return counts, processor.tokenizer.decode(ids).replace(processor.full_image_sequence, "<image>")


@pytest.mark.parametrize("token", ["[SEG]", "<start_of_image>", "<end_of_turn>", "<bos>", "<image_soft_token>"])
@pytest.mark.parametrize("between", ["", " ", "\n", "\x85", "\u3000", "\ue000", "\ue001", "\ue001\ue000"])
def test_a_special_token_that_is_cut_over_parts_stays_text(processor, chat, token, between):
    plain, _ = control_counts(processor, chat(("user", IMAGE, "word")))
    for at in range(1, len(token)):
        parts = [token[:at] + between, between, between + token[at:]]
        joined = "".join(part.replace("\ue000", "").replace("\ue001", "").strip() for part in parts)
        counts, text = control_counts(processor, chat(("user", IMAGE, *parts)))
        assert counts == plain and f"<image>{joined}<end_of_turn>" in text
        counts, _ = control_counts(processor, chat(("system", *parts), ("user", IMAGE, *parts)))
        assert counts == plain
        counts, _ = control_counts(processor, chat(("user", parts[0], IMAGE, parts[2])))
        assert counts == plain
        counts, _ = control_counts(processor, chat(("user", *token, IMAGE, *token)))
        assert counts == plain


def test_seg_of_a_model_turn_is_the_token_within_one_text_only(processor, chat):
    def segs(*parts):
        counts, _ = control_counts(processor, chat(("user", IMAGE, "[SEG]"), ("assistant", *parts)))
        return counts["[SEG]"]

    assert segs("It is [SEG], [SEG]") == 2 and segs("It is ", "[SEG]", ", ", "[SEG][SEG]") == 3
    assert segs("[SE", "G]") == segs("[", "SEG", "]") == 0
    assert segs("[SE", "G] [SEG]") == 1


def test_a_seg_that_the_model_spells_in_words_is_no_token_in_a_later_turn(processor, chat):
    words = processor.tokenizer("a [SEG] b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert processor.seg_token_id not in words
    answer = processor.read_answer([*words, processor.seg_token_id])
    assert answer["raw_text"].count("[SEG]") == len(answer["phrases"]) == 1
    assert answer["text"] == "a [SEG] b"
    later = chat(("user", IMAGE, "Q"), ("assistant", answer["raw_text"]), ("user", "Q"))
    assert control_counts(processor, later)[0]["[SEG]"] == 1


def test_a_special_token_of_what_is_typed_and_what_the_template_writes_is_none(fresh, chat):
    added = ["Q<end_of_turn>", "user\nQ", "model\nA", "a\n\nb", "<start_of_image>Q", "S\n\n<start_of_image>"]
    fresh.tokenizer.add_tokens(added, special_tokens=True)
    conversations = [
        chat(("system", "S"), ("user", IMAGE, "Q"), ("assistant", "A"), ("user", "Q")),
        chat(("system", "a"), ("user", "b")),
        chat(("user", "Q")),
    ]
    for conversation in conversations:
        counts, text = control_counts(fresh, conversation, add_generation_prompt=True)
        assert not any(counts[token] for token in added)
        images = sum(part["type"] == "image" for message in conversation for part in message["content"])
        assert counts["<end_of_turn>"] == sum(message["role"] != "system" for message in conversation)
        assert counts["<start_of_turn>"] == counts["<end_of_turn>"] + 1
        assert counts["<start_of_image>"] == counts["<end_of_image>"] == images
        rendered = fresh.apply_chat_template(conversation, add_generation_prompt=True)
        assert text == rendered.replace("<start_of_image>", "<image>")


def test_a_token_added_after_loading_cannot_be_typed_before_or_after_saving(fresh, chat, tmp_path):
    fresh.tokenizer.add_tokens(["<thing>"], special_tokens=True)
    fresh.tokenizer.add_tokens(["gizmo"])  # a word of the vocabulary like others
    fresh.save_pretrained(tmp_path)
    loaded = GemmaLisaProcessor.from_pretrained(tmp_path)
    for typed, times in (("<thing>", 0), ("gizmo", 1)):
        found = [encode(one, chat(("user", IMAGE, typed)))["input_ids"] for one in (fresh, loaded)]
        assert torch.equal(*found)
        assert int((found[0] == fresh.tokenizer.convert_tokens_to_ids(typed)).sum()) == times
    for one in (fresh, loaded):
        assert control_counts(one, chat(("user", "<thi", "ng>")))[0]["<thing>"] == 0


def test_a_special_token_that_the_normalizer_makes_is_none(fresh, chat):
    fresh.tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    fresh.tokenizer.add_tokens([AddedToken("(thing)", normalized=True, special=True)])
    plain, _ = control_counts(fresh, chat(("user", IMAGE, "word")))
    for typed in ("(thing)", "（ｔｈｉｎｇ）", "（thing", "（ thing)", "\u2474thing)", "(thin\u1d4d)"):
        for parts in ([typed], [typed[:3], typed[3:]], list(typed)):
            assert control_counts(fresh, chat(("user", IMAGE, *parts)))[0] == plain


@pytest.mark.parametrize("options", [{"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": True}, {}])
def test_special_tokens_of_every_kind_stay_text_and_leave_the_template_its_own(fresh, chat, options):
    for token in ("<thing>", "thing", "the thing", "hing<"):
        fresh.tokenizer.add_tokens([AddedToken(token, special=True, **options)])
    plain, _ = control_counts(fresh, chat(("user", IMAGE, "word"), ("assistant", "word")))
    for typed in (
        "a <thing> b",
        "<thing>",
        "the  thing",
        "the thing",
        "thing",
        "<thing<thing>",
        "<thing><end_of_turn>",
    ):
        for parts in ([typed], [typed[:4], typed[4:]], [f" {typed} ", "\n"], list(typed)):
            counts, _ = control_counts(fresh, chat(("user", IMAGE, *parts), ("assistant", *parts)))
            assert counts == plain, (typed, parts)


def test_a_word_that_is_made_a_special_token_is_read_by_its_characters(fresh, chat):
    word = fresh.tokenizer.tokenize("circle")
    assert len(word) == 1
    fresh.tokenizer.add_special_tokens({"additional_special_tokens": word}, replace_extra_special_tokens=False)
    counts, text = control_counts(fresh, chat(("user", "a circle", "circle")))
    assert counts["circle"] == 0 and "a circlecircle<end_of_turn>" in text


@pytest.mark.parametrize("change", ["[:3]", "[2:]", "| replace('[', '\ue000')"])
def test_a_template_that_cuts_texts_is_refused(processor, chat, change):
    template = processor.chat_template.replace("part.text | trim", f"part.text{change}")
    with pytest.raises(ValueError, match="template cuts or changes the text"):
        processor.encode_chats([chat(("user", "a [SEG] b"))], chat_template=template)


def test_other_templates_keep_what_is_typed_as_text(processor, chat):
    template = (
        "{{ bos_token }}{% for m in messages %}{% for p in m.content %}{{ p.text | upper }}|{% endfor %}{% endfor %}"
    )
    ((ids, spoken),) = processor.encode_chats([chat(("user", "a [SEG] <bos>"))], chat_template=template)
    assert processor.tokenizer.decode(ids) == "<bos>A [SEG] <BOS>|" and not any(spoken)
    assert processor.seg_token_id not in ids


def test_threads_share_a_tokenizer(processor, chat):
    """Plain and typed special tokens set the tokenizer's flags in turn."""
    conversations = [chat(("user", f"a [SEG] <end_of_turn> {number}"), ("assistant", "[SEG]")) for number in range(8)]
    expected = [processor.encode_chats([conversation]) for conversation in conversations]
    typed = processor.tokenizer("[SEG]", split_special_tokens=True)

    def work(number):
        for _ in range(20):
            assert processor.encode_chats([conversations[number]]) == expected[number]
            processor(text=["<bos>a [SEG]", "b"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert processor.tokenizer("[SEG]", split_special_tokens=True) == typed


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tokenize", [True, False])
def test_two_images_are_refused_in_one_line(processor, chat, tokenize):
    for conversation in (
        chat(("user", IMAGE, IMAGE, "Q")),
        chat(("user", IMAGE, "Q"), ("assistant", "A"), ("user", IMAGE, "R")),
    ):
        with pytest.raises(ValueError, match="2 images in one conversation") as refusal:
            processor.apply_chat_template(conversation, tokenize=tokenize, return_dict=tokenize)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "roles",
    [
        ("user", "user"),
        ("assistant",),
        ("assistant", "user"),
        ("system", "assistant"),
        ("user", "tool"),
        ("user", "model"),
        ("user", "system"),
    ],
)
@pytest.mark.parametrize("tokenize", [True, False])
def test_turns_that_do_not_alternate_are_refused_in_one_line(processor, chat, roles, tokenize):
    with pytest.raises(ValueError, match="alternate") as refusal:
        processor.apply_chat_template(
            chat(*((role, "words") for role in roles)), tokenize=tokenize, return_dict=tokenize
        )
    assert ", ".join(roles) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("words", "A message must be"),
        ({"role": "user"}, "A message must be"),
        ({"content": "words"}, "A message must be"),
        ({"role": "user", "content": None}, "a text or a list of parts"),
        ({"role": "user", "content": 3}, "a text or a list of parts"),
        ({"role": "user", "content": ["words"]}, "a text or a list of parts"),
        ({"role": 3, "content": "words"}, "a text or a list of parts"),
        ({"role": "user", "content": [{"text": "words"}]}, "holds None"),
        ({"role": "user", "content": [{"type": ["text"], "text": "words"}]}, r"holds \['text'\]"),
        ({"role": "user", "content": [{"type": "text"}]}, '"text": a text'),
        ({"role": "user", "content": [{"type": "text", "text": b"words"}]}, '"text": a text'),
        ({"role": "user", "content": "half \ud800"}, r"U\+D800, half of a character"),
        ({"role": "user", "content": [{"type": "text", "text": "\udfff"}]}, r"U\+DFFF, half of a character"),
    ],
)
@pytest.mark.parametrize("tokenize", [True, False])
def test_messages_that_are_none_are_refused_in_one_line(processor, message, said, tokenize):
    with pytest.raises(ValueError, match=said) as refusal:
        processor.apply_chat_template([message], tokenize=tokenize, return_dict=tokenize)
    assert "\n" not in str(refusal.value)


@pytest.fixture
def no_network(monkeypatch):
    """The attempts to reach the network, each of which fails."""
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
def test_nothing_is_fetched_for_a_conversation(tiny, no_network, address, key):
    model, processor = tiny
    for value in (address, {"url": address}):
        part = {"type": "image_url" if key == "image_url" else "image", key: value}
        conversation = [{"role": "user", "content": [part, {"type": "text", "text": "Q"}]}]
        with pytest.raises(ValueError):
            processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
        if key == "image_url":
            with pytest.raises(ValueError, match="image_url"):
                processor.apply_chat_template(conversation, tokenize=False)
        else:  # pixels are not looked at
            assert processor.apply_chat_template(conversation, tokenize=False).count("<start_of_image>") == 1
    assert not no_network


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_is_fetched_for_an_image(tiny, no_network, address):
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


def test_tokenizer_without_seg_is_refused(processor):
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
    """`made`, saved and loaded."""
    folder = tmp_path_factory.mktemp("processor")
    made.save_pretrained(folder)
    return GemmaLisaProcessor.from_pretrained(folder)


def test_system_prompt_is_kept_and_applied(loaded, chat):
    assert loaded.system_prompt == "Point at things."
    turns = [("user", IMAGE, "Q"), ("assistant", "A")]
    expected = f"<bos>{USER}Point at things.\n\n<start_of_image>Q{END}{MODEL}A{END}"
    assert loaded.apply_chat_template(chat(*turns)) == expected
    ids = encode(loaded, chat(*turns))["input_ids"][0]
    assert decode(loaded, ids) == expected.replace("<start_of_image>", "<image>")
    ((encoded, _),) = loaded.encode_chats([chat(*turns)])
    assert encoded == ids.tolist()


def test_system_turn_of_a_conversation_is_taken_instead_of_the_prompt(loaded, chat):
    turns = [("system", "SYS"), ("user", "Q")]
    expected = f"<bos>{USER}SYS\n\nQ{END}"
    assert loaded.apply_chat_template(chat(*turns)) == expected
    assert decode(loaded, encode(loaded, chat(*turns))["input_ids"][0]) == expected


def test_conversation_is_not_changed_by_reading_it(loaded, chat):
    conversation = chat(("user", IMAGE, "[SEG]"))
    before = [{**message, "content": [dict(part) for part in message["content"]]} for message in conversation]
    encode(loaded, conversation)
    assert conversation == before


def test_image_processors_are_the_pil_ones_also_after_loading(loaded, processor):
    for one in (loaded, processor):
        assert type(one.image_processor) is Gemma3ImageProcessorPil
        assert type(one.sam_image_processor) is SamImageProcessorPil


def test_image_processors_are_the_pil_ones_whatever_comes(processor):
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


def test_loaded_processor_gives_the_same(made, loaded, chat):
    conversation = chat(("user", IMAGE, "the [SEG]"), ("assistant", "It is [SEG]."))
    one, two = (encode(p, conversation, return_assistant_tokens_mask=True) for p in (made, loaded))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name])
    assert loaded.chat_template == made.chat_template and loaded.seg_token == made.seg_token


# ---------------------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------------------
def test_orientation_is_applied_before_sizes_are_taken(processor, make_picture, tmp_path):
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


def test_image_may_be_a_path_in_a_conversation(processor, chat, make_picture, tmp_path):
    make_picture(20, 30).save(tmp_path / "photo.png")
    by_path = chat(("user", IMAGE, "Q"), picture=str(tmp_path / "photo.png"))
    by_picture = chat(("user", IMAGE, "Q"), picture=make_picture(20, 30))
    one, two = encode(processor, by_path), encode(processor, by_picture)
    for name in two:
        assert torch.equal(one[name], two[name])
    called = processor(images=[[str(tmp_path / "photo.png")]], text=[processor.apply_chat_template(by_path)])
    for name in two:
        assert torch.equal(called[name], two[name])


def test_sam_image_keeps_its_shape_and_is_padded_right_and_below(processor, make_picture):
    encoded = processor.encode_images([make_picture(*size) for size in SIZES.values()])
    assert encoded["original_sizes"].tolist() == [list(size) for size in SIZES.values()]
    assert encoded["reshaped_input_sizes"].tolist() == [[31, 64], [64, 22], [64, 64]]
    for pixels, (height, width) in zip(
        encoded["sam_pixel_values"], encoded["reshaped_input_sizes"].tolist(), strict=True
    ):
        assert not pixels[:, height:].any() and not pixels[:, :, width:].any()
        assert pixels[:, :height, :width].any(0).float().mean() > 0.99


def test_images_may_be_left_as_bytes_and_are_normalized_once(processor, make_picture):
    pictures = [make_picture(*size) for size in SIZES.values()]
    encoded, left = processor.encode_images(pictures), processor.encode_images(pictures, as_bytes=True)
    for name in ("pixel_values", "sam_pixel_values"):
        assert left[name].dtype == torch.uint8 and encoded[name].dtype == torch.float32
    processor.normalize_images(left)
    assert left["pixel_values"].dtype == torch.uint8, "what came in is not changed"
    again = processor.normalize_images(encoded)
    assert all(torch.equal(again[name], encoded[name]) for name in encoded)


# ---------------------------------------------------------------------------------------------------------------------
# Masks and words of an answer
# ---------------------------------------------------------------------------------------------------------------------
def output_of(processor, inputs, answers, image_of=(), side=32, seed=0):
    """A SegmentOutput in which the model said the answers; image_of: the image of each mask."""
    spoken = [processor.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    length = max(map(len, spoken))
    spoken = [ids + [processor.tokenizer.pad_token_id] * (length - len(ids)) for ids in spoken]
    generator = torch.Generator().manual_seed(seed)
    count = len(image_of)
    return SegmentOutput(
        sequences=torch.cat([inputs["input_ids"], torch.tensor(spoken)], dim=1),
        pred_masks=torch.randn(count, side, side, generator=generator),
        iou_scores=torch.rand(count, generator=generator),
        seg_image_index=torch.tensor(image_of, dtype=torch.long),
    )


def test_masks_come_at_the_sizes_of_their_images_as_sam_makes_them(processor, chat, make_picture):
    conversations = [chat(("user", IMAGE, "Q"), picture=make_picture(*size)) for size in SIZES.values()]
    conversations.insert(1, chat(("user", "Q")))
    inputs = encode(processor, conversations, add_generation_prompt=True)
    said = ["[SEG] [SEG]<end_of_turn>", "Hi.<end_of_turn>", "[SEG]<end_of_turn>", "[SEG]<end_of_turn>"]
    output = output_of(processor, inputs, said, image_of=[0, 0, 1, 2])
    answers = processor.post_process_segmentation(output, inputs)
    assert len(answers) == 4 and answers[1]["masks"].shape == (0, 0, 0) and answers[1]["scores"].shape == (0,)

    masks = [output.pred_masks[:2, None], output.pred_masks[2:3, None], output.pred_masks[3:, None]]
    expected = SamImageProcessorPil.post_process_masks(
        processor.sam_image_processor,
        masks,
        inputs["original_sizes"],
        inputs["reshaped_input_sizes"],
        binarize=False,
    )
    scores = [output.iou_scores[:2], output.iou_scores[2:3], output.iou_scores[3:]]
    with_image = [answers[0], answers[2], answers[3]]
    for image, (answer, logits, score) in enumerate(zip(with_image, expected, scores, strict=True)):
        height, width = list(SIZES.values())[image]
        assert answer["masks"].shape == (len(score), height, width) and answer["masks"].dtype == torch.bool
        assert torch.equal(answer["masks"], logits[:, 0] > 0)
        assert 0 < answer["masks"].float().mean() < 1
        assert torch.equal(answer["scores"], score)
        reshaped = inputs["reshaped_input_sizes"][image].tolist()
        own = processor.masks_to_image(masks[image][:, 0], (height, width), reshaped)
        assert torch.equal(own, logits[:, 0])


def test_threshold_is_one_of_logits(processor, chat):
    inputs = encode(processor, chat(("user", IMAGE, "Q")))
    output = output_of(processor, inputs, ["[SEG]"], image_of=[0])
    logits = processor.masks_to_image(output.pred_masks, (64, 64), (64, 64))
    for threshold in (-0.5, 0.0, 0.7):
        (answer,) = processor.post_process_segmentation(output, inputs, threshold=threshold)
        assert torch.equal(answer["masks"], logits > threshold)


def test_masks_can_be_encoded_one_at_a_time(processor, chat, make_picture):
    conversations = [chat(("user", IMAGE, "Q"), picture=make_picture(*size)) for size in SIZES.values()]
    inputs = encode(processor, conversations, add_generation_prompt=True)
    output = output_of(processor, inputs, ["[SEG] [SEG]", "No.", "[SEG]"], image_of=[0, 0, 2])
    plain = processor.post_process_segmentation(output, inputs, 0.3)
    encoded = processor.post_process_segmentation(output, inputs, 0.3, encode_mask=lambda mask: mask.numpy().tobytes())
    assert [len(answer["masks"]) for answer in encoded] == [2, 0, 1]
    for one, other in zip(plain, encoded, strict=True):
        assert [mask.numpy().tobytes() for mask in one["masks"]] == other["masks"]


WORDS = {
    # said: (text, raw_text, phrases, complete)
    "It is [SEG].<end_of_turn>": ("It is.", "It is [SEG].", [""], True),
    "It is [SEG], a red circle.<end_of_turn>": (
        "It is, a red circle.",
        "It is [SEG], a red circle.",
        ["a red circle"],
        True,
    ),
    "They are [SEG], a cup, [SEG], a jug.<end_of_turn>": (
        "They are, a cup, a jug.",
        "They are [SEG], a cup, [SEG], a jug.",
        ["a cup", "a jug"],
        True,
    ),
    "They are [SEG], [SEG] and [SEG].<end_of_turn>": (
        "They are.",
        "They are [SEG], [SEG] and [SEG].",
        ["", "", ""],
        True,
    ),
    "[SEG]<end_of_turn>": ("", "[SEG]", [""], True),
    "the cat [SEG] on the mat [SEG]<end_of_turn>": (
        "the cat on the mat",
        "the cat [SEG] on the mat [SEG]",
        ["the cat", "on the mat"],
        True,
    ),
    "They are [SEG] cup in blue and [SEG] jug.<end_of_turn>": (
        "They are cup in blue and jug.",
        "They are [SEG] cup in blue and [SEG] jug.",
        ["cup in blue", "jug"],
        True,
    ),
    "Sure, the island [SEG] and there is a mat, [SEG]<end_of_turn>": (
        "Sure, the island and there is a mat,",
        "Sure, the island [SEG] and there is a mat, [SEG]",
        ["the island", "a mat"],
        True,
    ),
    "No, it is not there.<end_of_turn>": ("No, it is not there.", "No, it is not there.", [], True),
    "It is [SEG] and": ("It is and", "It is [SEG] and", [""], False),
    "Sure.<eos>": ("Sure.", "Sure.", [], True),
    "<end_of_turn>": ("", "", [], True),
}


@pytest.mark.parametrize("said", WORDS)
def test_words_of_an_answer_are_told_from_its_tokens(processor, chat, said):
    inputs = encode(processor, chat(("user", IMAGE, "Q")), add_generation_prompt=True)
    text, raw_text, phrases, complete = WORDS[said]
    output = output_of(processor, inputs, [said], image_of=[0] * len(phrases))
    (answer,) = processor.post_process_segmentation(output, inputs)
    assert set(answer) == {"text", "raw_text", "phrases", "masks", "scores", "complete"}
    assert (answer["text"], answer["raw_text"], answer["phrases"], answer["complete"]) == WORDS[said]
    assert answer["masks"].shape == (len(phrases), 64, 64) and answer["scores"].shape == (len(phrases),)


def test_earlier_turns_are_no_part_of_the_answer(processor, chat):
    conversation = chat(("user", IMAGE, "Q"), ("assistant", "It is [SEG]."), ("user", "R"))
    inputs = encode(processor, [conversation, chat(("user", "Hi"))], add_generation_prompt=True)
    output = output_of(processor, inputs, ["No.<end_of_turn>", "Hello there.<end_of_turn>"])
    first, second = processor.post_process_segmentation(output, inputs)
    assert (first["raw_text"], second["raw_text"]) == ("No.", "Hello there.")
    assert first["masks"].shape == (0, 64, 64)


def test_answers_of_the_model_are_read_whole(tiny, chat, make_picture):
    model, processor = tiny
    conversations = [
        chat(("user", IMAGE, "the red circle"), picture=make_picture(30, 50)),
        chat(("user", "Hi.")),
        chat(("user", IMAGE, "the star"), picture=make_picture(64, 20, seed=1)),
    ]
    inputs = encode(processor, conversations, add_generation_prompt=True)
    output = model.segment(**inputs, max_new_tokens=6)
    answers = processor.post_process_segmentation(output, inputs)
    assert [tuple(answer["masks"].shape[1:]) for answer in answers] == [(30, 50), (0, 0), (64, 20)]
    assert sum(len(answer["masks"]) for answer in answers) == len(output.pred_masks)
    assert all(len(a["masks"]) == len(a["scores"]) == len(a["phrases"]) for a in answers if np.prod(a["masks"].shape))


@pytest.fixture
def no_hang():
    """Ends a test that would run for hours."""

    def end(*args):
        raise TimeoutError("the patterns take more than linear time")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


LONG = 100_000
UNITS = [*(" ", "\n", "\t", "\u3000", ",", " ,", ", ", ",\n", "and", " and", "and ", "is", "there ", "here are "), "と"]
UNITS += [
    *("それらは", "。", "a", ".", "the red circle ", "yes, ", "[SEG]", "<end_of_turn>", "data:", "A+", "://"),
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_long_answer_is_read_in_linear_time(processor, unit, no_hang, monkeypatch):
    """The cubic pattern took 114 s for 4,000 blanks."""
    long = unit * (LONG // len(unit))
    said = {}
    monkeypatch.setattr(processor.tokenizer, "decode", lambda ids, **options: said[ids[0]])
    sure, one, other = range(300, 303)  # tokens of words
    for texts in (("Sure, ", long, long), ("Sure, ", f"{long}x", f"x{long}x"), (long, f",{long}x", f"and{long}x")):
        said |= zip((sure, one, other), texts, strict=True)
        seg = processor.seg_token_id
        answer = processor.read_answer([sure, seg, one, seg, other, seg, sure])
        assert len(answer["phrases"]) == 3 and not answer["complete"]


@pytest.mark.parametrize("unit", ["[SEG]", "<", "[SE", " ", "\n", "<bos", "ab ", "\ue000"])
def test_a_long_question_is_read_in_linear_time(processor, chat, unit, no_hang):
    long = unit * (LONG // len(unit))
    plain, _ = control_counts(processor, chat(("user", "word")))
    for parts in ([long], [long[: LONG // 2], long[LONG // 2 :]]):
        assert control_counts(processor, chat(("user", *parts)))[0] == plain


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, "video"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}, "image_url"),
        ({"role": "system", "content": [{"type": "image", "image": "a.png"}]}, "system's turn holds image"),
    ],
)
def test_parts_that_would_be_left_out_are_refused(processor, message, said):
    with pytest.raises(ValueError, match=said):
        processor.apply_chat_template([message], tokenize=True, return_dict=True)


@pytest.mark.parametrize("nothing", [[], [[]]])
def test_a_conversation_without_a_message_is_refused(processor, nothing):
    with pytest.raises(ValueError, match="no message|no conversation"):
        processor.apply_chat_template(nothing, tokenize=True, return_dict=True)


def test_all_parts_of_a_system_text_are_said(processor):
    system = {"role": "system", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]}
    text = processor.apply_chat_template([system, {"role": "user", "content": "Q"}])
    assert "One. Two.\n\nQ" in text
