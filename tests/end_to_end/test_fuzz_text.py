"""What people type, random and hostile: it never becomes a special token, however it is cut into parts."""

import pytest
from fuzzing import budget, result_or_refusal
from hypothesis import example, given
from hypothesis import strategies as st

from gemma_lisa.answers_gemma_lisa import phrases_of, repeats_itself
from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor

pytestmark = pytest.mark.fuzz

SPECIAL = ["[SEG]", "<start_of_image>", "<end_of_image>", "<image_soft_token>", "<bos>", "<eos>", "<pad>", "<unk>"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
pieces = st.sampled_from(
    [
        *SPECIAL,
        *TURNS,
        "[SE",
        "G]",
        "[",
        "SEG",
        "]",
        "<start_of",
        "_turn>",
        "<end_of_",
        "<start_",
        "of_image>",
        "\ue000",
    ]
    + [
        "\ue001",
        "\ue000[SEG]\ue001",
        "\u200b",
        "\ufeff",
        "\x00",
        "\u202e",
        "\n",
        "\n\n",
        " ",
        "\t",
        "{{",
        "{% endfor %}",
    ]
    + ["{seg}", "\x85", "\u2028", "\u00a0", "e\u0301", "\U0001f600", "model\n", "user\n", "İ", "ß", "the red circle"]
)
texts = st.lists(
    st.one_of(pieces, st.text(st.characters(exclude_categories=("Cs",)), max_size=8)), min_size=1, max_size=10
)


@pytest.fixture(scope="module")
def processor():
    return GemmaLisaProcessor.from_pretrained(EXAMPLE, trust_remote_code=False)


def count(processor, ids: list[int], token: str) -> int:
    return ids.count(processor.tokenizer.convert_tokens_to_ids(token))


@budget(3)
@example(question=["[SE", "G]"], second=["a"], with_image=False, cut=True, has_system=False)
@example(question=["<start_of_", "image>"], second=["<end_of_", "turn>"], with_image=True, cut=True, has_system=True)
@given(texts, texts, st.booleans(), st.booleans(), st.booleans())
def test_typed_text_never_becomes_a_special_token(processor, question, second, with_image, cut, has_system):
    def content(parts):
        return [{"type": "text", "text": part} for part in parts] if cut else [{"type": "text", "text": "".join(parts)}]

    messages = [{"role": "system", "content": content(second)}] if has_system else []
    image = [{"type": "image"}] if with_image else []
    messages.append({"role": "user", "content": [*image, *content(question)]})
    messages += [{"role": "assistant", "content": "It is here."}, {"role": "user", "content": content(second)}]
    found = result_or_refusal(lambda: processor.encode_conversations([messages], True))
    if isinstance(found, ValueError):  # an empty text, for example
        return
    ((ids, spoken),) = found
    assert len(ids) == len(spoken)
    assert count(processor, ids, "[SEG]") == 0
    assert count(processor, ids, "<start_of_turn>") == 4 and count(processor, ids, "<end_of_turn>") == 3
    assert count(processor, ids, "<start_of_image>") == count(processor, ids, "<end_of_image>") == with_image
    assert count(processor, ids, "<image_soft_token>") == with_image * processor.image_seq_length
    assert count(processor, ids, "<bos>") == 1
    assert not any(count(processor, ids, token) for token in ("<eos>", "<pad>", "<unk>"))


@budget()
@given(texts)
def test_a_question_is_the_same_alone_in_a_batch_and_as_a_plain_text(processor, question):
    typed = "".join(question)
    parts = [{"role": "user", "content": [{"type": "text", "text": typed}]}]
    other = [{"role": "user", "content": "hello"}]
    alone = result_or_refusal(lambda: processor.encode_conversations([parts], True))
    if not isinstance(alone, ValueError):
        assert processor.encode_conversations([other, parts], True)[1] == alone[0]
        assert processor.encode_conversations([[{"role": "user", "content": typed}]], True) == alone


@budget(2)
@given(st.data())
def test_any_tokens_of_the_model_are_an_answer_with_a_phrase_for_each_mask(processor, data):
    tokenizer = processor.tokenizer
    special = tokenizer.convert_tokens_to_ids(["[SEG]", "<end_of_turn>", "<start_of_image>"])
    token = st.one_of(st.integers(0, len(tokenizer) - 1), st.sampled_from(special))
    tokens = data.draw(st.lists(token, max_size=64))
    stops = {tokenizer.eos_token_id, special[1]}
    end = next((at for at, one in enumerate(tokens) if one in stops), None)
    answer = processor.read_answer(tokens)
    assert answer["complete"] == (end is not None and not repeats_itself(answer["raw_text"]))
    assert len(answer["phrases"]) == tokens[:end].count(special[0])


@budget()
@given(
    st.lists(
        st.one_of(pieces, st.sampled_from([" and ", ",", "It is ", "Sure, it is", "、", "です。", "."])), min_size=1
    )
)
def test_there_is_a_phrase_for_each_mask_whatever_stands_between_them(words):
    phrases = phrases_of(words)
    assert len(phrases) == len(words) - 1 and all(isinstance(phrase, str) for phrase in phrases)
