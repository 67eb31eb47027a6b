"""Gemma 3 270M with its own tokenizer and weights, and the vision encoder and SAM of the small checkpoint."""

import re
from pathlib import Path

import pytest
import torch
from adapter_runs import answers_of, trainer_of
from conversations import IMAGE, encode
from PIL import Image
from real_gemma import IMAGE_TOKENS, start_model
from scripted_answers import ask_both, scripted, turn

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.scripts import export
from gemma_lisa.training.arguments import ModelArguments
from gemma_lisa.training.load_model import load_model

pytestmark = pytest.mark.slow

SCENE = Path(__file__).resolve().parents[2] / "docs" / "scene.png"
BOS, USER, MODEL, START, END, NEWLINE = 2, 2364, 4368, 105, 106, 107
FIRST_SPARE, ROWS = 262_145, 262_208
# chat_template.json of google/gemma-3-4b-it
GOOGLES_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""
CONVERSATIONS = {
    "question": [("user", "Where is the red circle?")],
    "system": [("system", "Answer briefly."), ("user", IMAGE, " the red shape "), ("assistant", "It is [SEG].")],
    "japanese": [("user", IMAGE, "赤い円はどれですか？"), ("assistant", "[SEG] です。"), ("user", "ありがとう！😀")],
}


@pytest.fixture(scope="module")
def start(request):
    return start_model(request.config.cache.mkdir("real_gemma"))


@pytest.fixture(scope="module")
def processor(start):
    return GemmaLisaProcessor.from_pretrained(start)


@pytest.fixture(scope="module")
def model(start):
    return load_checkpoint(start, dtype=torch.float32)[0]


# ---------------------------------------------------------------------------------------------------------------------
# The tokenizer
# ---------------------------------------------------------------------------------------------------------------------
def test_tokens_of_a_conversation_are_those_of_gemma(processor, make_conversation):
    tokenizer = processor.tokenizer
    question, answer, thanks = (tokenizer.encode(text, add_special_tokens=False) for text in ("赤い円", "Here.", "Hi"))
    turns = [("user", "赤い円"), ("assistant", "Here."), ("user", "Hi")]
    ids = encode(processor, make_conversation(*turns), add_generation_prompt=True)["input_ids"][0].tolist()
    assert ids == [
        *(BOS, START, USER, NEWLINE, *question, END, NEWLINE),
        *(START, MODEL, NEWLINE, *answer, END, NEWLINE),
        *(START, USER, NEWLINE, *thanks, END, NEWLINE),
        *(START, MODEL, NEWLINE),
    ]
    assert len(question) == 2
    assert tokenizer.convert_ids_to_tokens([BOS, START, USER, NEWLINE]) == ["<bos>", "<start_of_turn>", "user", "\n"]


@pytest.mark.parametrize("case", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", "no_prompt"])
def test_the_chat_template_renders_as_that_of_google(processor, make_conversation, case, prompt):
    conversation = make_conversation(*CONVERSATIONS[case])
    expected = processor.tokenizer.apply_chat_template(
        conversation, chat_template=GOOGLES_TEMPLATE, tokenize=False, add_generation_prompt=prompt
    )
    assert processor.apply_chat_template(conversation, add_generation_prompt=prompt) == expected
    ids = encode(processor, conversation, add_generation_prompt=prompt)["input_ids"][0]
    whole = expected.replace("<start_of_image>", processor.full_image_sequence)
    assert ids.tolist() == processor.tokenizer.encode(whole, add_special_tokens=False)


def test_an_image_is_its_tokens_between_two_marks(processor, make_conversation):
    ids = encode(processor, make_conversation(("user", IMAGE, "円")))["input_ids"][0].tolist()
    first = ids.index(255_999)
    assert ids[first : first + IMAGE_TOKENS + 2] == [255_999, *[262_144] * IMAGE_TOKENS, 256_000]
    assert ids.count(262_144) == IMAGE_TOKENS


def test_seg_is_one_token_in_a_spare_row_and_typed_it_is_three(processor, start, make_conversation):
    tokenizer = processor.tokenizer
    config = load_checkpoint(start)[0].config
    assert processor.seg_token_id == config.seg_token_id == FIRST_SPARE < config.text_config.vocab_size == ROWS
    answer = make_conversation(("user", "Q"), ("assistant", "It is [SEG]."))
    assert encode(processor, answer)["input_ids"][0].tolist().count(FIRST_SPARE) == 1

    typed = encode(processor, make_conversation(("user", "[SEG]")))["input_ids"][0].tolist()
    pieces = tokenizer.convert_ids_to_tokens(typed[4:-2])  # between the beginning and the end of the turn
    assert pieces == ["[", "SEG", "]"]


@pytest.mark.parametrize(
    "answers",
    [["It is [SEG].", "No, there is no such shape."], ["赤い円は [SEG] と [SEG] です。", "そのような形はありません。"]],
    ids=["english", "japanese"],
)
def test_labels_cover_exactly_the_turns_of_the_model(processor, make_conversation, make_sample, answers):
    turns = [part for answer in answers for part in (("user", "円 model\n?"), ("assistant", answer))]
    batch = encode(processor, make_conversation(*turns), return_assistant_tokens_mask=True)
    ids, mask = batch["input_ids"][0], batch["assistant_masks"][0].bool()
    assert [processor.tokenizer.decode(run) for run in runs(ids, mask)] == [f"{text}<end_of_turn>" for text in answers]

    batch = GemmaLisaCollator(processor)([make_sample([answer.replace("[SEG]", "{seg}") for answer in answers])])
    learned = batch["labels"][0] != IGNORE_INDEX
    assert torch.equal(batch["labels"][0][learned], batch["input_ids"][0][learned])
    found = [processor.tokenizer.decode(run) for run in runs(batch["input_ids"][0], learned)]
    assert found == [f"{text}<end_of_turn>" for text in answers]


def runs(ids, mask):
    """Return the ids of each run of True in the mask."""
    text = "".join("x" if is_in else "." for is_in in mask.tolist())
    return [ids[match.start() : match.end()].tolist() for match in re.finditer("x+", text)]


# ---------------------------------------------------------------------------------------------------------------------
# The weights
# ---------------------------------------------------------------------------------------------------------------------
def test_the_language_model_continues_a_sentence_with_sense(model, processor):
    inputs = processor.tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        likely = model(**inputs).logits[0, -1].topk(3).indices
    assert " Paris" in processor.tokenizer.batch_decode(likely[:, None])


def test_a_session_is_equal_to_stateless_calls(model, processor):
    picture = Image.open(SCENE)
    session, messages = model.start(picture, processor), []
    for question, answer in (
        ("赤い円", "[SEG] です。"),
        ("the shape like a coin", "Here: [SEG] and [SEG]."),
        ("Why?", "円"),
    ):
        messages.append(turn(question, None if messages else picture))
        script = processor.tokenizer.encode(f"{answer}<end_of_turn>", add_special_tokens=False)
        found = ask_both(script, session, messages)
        assert (found["raw_text"], found["complete"]) == (answer, True)
        assert len(found["masks"]) == answer.count("[SEG]")
        messages.append({"role": "assistant", "content": answer})


def test_a_batch_is_equal_to_single_conversations(model, processor):
    picture = Image.open(SCENE)
    questions = ["赤い円", "Which of the shapes has the colour of a ripe tomato, and which one does not?"]
    conversations = [[turn(question, picture)] for question in questions]
    script = processor.tokenizer.encode("It is [SEG].<end_of_turn>", add_special_tokens=False)

    def ask(*asked):
        inputs = processor.apply_chat_template(
            list(asked), add_generation_prompt=True, tokenize=True, return_dict=True, padding=True
        )
        with torch.no_grad():
            likely = model(**inputs).logits[:, -1]
        with scripted(model, script):
            return likely, model.segment(**inputs).pred_masks

    together, masks = ask(*conversations)
    for row, conversation in enumerate(conversations):
        alone, mask = ask(conversation)
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(masks[row], mask[0], rtol=1e-4, atol=1e-3)
    assert (together[0] - together[1]).abs().max() > 1 and (masks[0] - masks[1]).abs().max() > 1e-3


def test_an_adapter_and_its_export_give_the_answers_of_the_trained_model(start, rows, tmp_path):
    trained, processor = load_model(ModelArguments(str(start), lora_rank=4), device=torch.device("cpu"))
    options = {"max_steps": 1, "per_device_train_batch_size": 1}
    trainer = trainer_of(trained, processor, rows, tmp_path / "adapter", **options)
    trainer.train()
    trainer.save_model()
    sample = TrainingQuestions(rows, seed=0, max_questions=1)[0]
    expected = answers_of(trained, GemmaLisaCollator(processor)([sample]))
    del trained, trainer
    assert sum(path.stat().st_size for path in (tmp_path / "adapter").glob("*.safetensors")) < 30e6  # no embedding

    merged, processor = load_checkpoint(tmp_path / "adapter", dtype=torch.float32)
    found = answers_of(merged, GemmaLisaCollator(processor)([sample]))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    assert merged.lm_head.weight is merged.get_input_embeddings().weight
    del merged

    options = ["--model", str(tmp_path / "adapter"), "--output", str(tmp_path / "whole"), "--dtype", "float32"]
    export.main(options)
    model, processor = load_checkpoint(tmp_path / "whole")
    torch.testing.assert_close(answers_of(model, GemmaLisaCollator(processor)([sample])), found, rtol=1e-4, atol=1e-4)
