"""The chat template, and the tokens of a conversation: what is typed stays text, and never becomes a special token.

Letters: B conversations, L tokens.
"""

import re
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers.utils.chat_template_utils import render_jinja_template

from .images_gemma_lisa import ThreadLock, images_of_rows

# Gemma 3's chat template with {% generation %} around what the model says, so that labels come from the template.
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- set ns = namespace(system="") -%}
{%- if messages[0].role == "system" -%}
    {%- set first = messages[0].content -%}
    {%- set ns.system = (first if first is string else first | map(attribute="text") | join) + "\\n\\n" -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role != ("user" if loop.index0 % 2 == 0 else "assistant") -%}
        {{ raise_exception("Turns must alternate user/assistant, and the first must be the user's.") }}
    {%- endif -%}
    {%- set parts = [{"type": "text", "text": message.content}] if message.content is string else message.content -%}
    {{- "<start_of_turn>" + ("model" if message.role == "assistant" else message.role) + "\\n" -}}
    {%- if message.role == "assistant" -%}
        {%- generation -%}
            {%- for part in parts if part.type == "text" -%}{{ part.text | trim }}{%- endfor -%}
            {{- "<end_of_turn>" -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- ns.system if loop.first -}}
        {%- for part in parts -%}
            {{- "<start_of_image>" if part.type == "image" else part.text | trim -}}
        {%- endfor -%}
        {{- "<end_of_turn>" -}}
    {%- endif -%}
    {{- "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<start_of_turn>model\\n" }}{%- endif -%}
"""


# transformers compiles a template once, and what notes its {% generation %} spans serves one thread at a time.
_rendering = ThreadLock()
# Makes this module's copy of a template its own: another copy of the module has another lock.
_TEMPLATE_MARK = f"{{# {__name__} #}}"
# transformers sets a tokenizer's flags and then encodes: another thread must not come in between.
tokenizer_lock = ThreadLock()

# Private-use characters around each text of a message while the template renders it. A user cannot type them: they
# are removed from every text. What the model said begins with two.
TYPED_START, TYPED_END = "\ue000", "\ue001"
_MARKED = re.compile(f"{TYPED_START}({TYPED_START}?)([^{TYPED_START}{TYPED_END}]*){TYPED_END}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def user_turn(text: str, image: Any = None) -> dict[str, Any]:
    """Return the message of a user: the image, if there is one, and the text after it."""
    shown = [] if image is None else [{"type": "image", "image": image}]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def images_of(messages: list[dict]) -> list[Any]:
    """Return the images of a conversation's messages, each as it was given."""
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    return [part.get("image", part.get("path", part.get("url"))) for part in parts if part.get("type") == "image"]


@dataclass
class _Rendered:
    """A conversation as the template wrote it, with the image's tokens in place of `<start_of_image>`.

    Args:
        text: without marks.
        text_of: for each character the number of the message text that it belongs to, from 1; 0 if the template wrote
            it.
        is_spoken: for each character 1 inside the template's generation marks, else 0.
        said: numbers of the texts that are the model's own.
    """

    text: str
    text_of: list[int]
    is_spoken: bytearray
    said: set[int]


class ChatTemplateMixin:
    """`encode_conversations` of `GemmaLisaProcessor`, and what it needs of the tokenizer."""

    def encode_conversations(
        self,
        conversations: list[list[dict]],
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        continue_final_message: bool = False,
    ) -> list[tuple[list[int], list[int]]]:
        """Each conversation as (token ids, 1 where the model speaks up to its `<end_of_turn>` and 0 elsewhere).

        The tokens of the image are there, its pixels are not looked at: see `encode_images`.
        """
        if not conversations:
            return []
        prepared = [
            [self._mark_typed(message) for message in messages] for messages in map(self._complete, conversations)
        ]
        with _rendering:
            texts, spoken_spans = render_jinja_template(
                conversations=prepared,
                chat_template=_TEMPLATE_MARK + (chat_template or self.chat_template),
                return_assistant_tokens_mask=True,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **self.tokenizer.special_tokens_map,
            )
        rendered = [self._read_marks(text, spans) for text, spans in zip(texts, spoken_spans, strict=True)]
        soft, conversations = self.tokenizer.image_token_id, []
        for conversation, tokens in zip(rendered, self._tokenize(rendered), strict=True):
            ids, spoken = [], []
            for token, (start, end) in tokens:
                times = self.image_seq_length if token == soft else 1
                ids += [token] * times
                spoken += [int(1 in conversation.is_spoken[start:end])] * times
            conversations.append((ids, spoken))
        return conversations

    def image_of_each_row(self, input_ids: torch.LongTensor) -> list[int | None]:
        """Return for each conversation (B, L) the index of its image, or None if it shows none."""
        image_of_row, has_image = images_of_rows(input_ids, self.tokenizer.image_token_id)
        pairs = zip(image_of_row.tolist(), has_image.tolist(), strict=True)
        return [image if is_shown else None for image, is_shown in pairs]

    def _complete(self, messages: list[dict]) -> list[dict]:
        """Messages with the system prompt, where they bring none; one image at most, and turns that alternate."""
        if not messages:
            raise ValueError("The conversation holds no message; it needs a user's turn at least.")
        for message in messages:
            _check_message(message)
        if len(images := images_of(messages)) > 1:
            raise ValueError(f"{len(images)} images in one conversation; Gemma-LISA takes one. Ask about each alone.")
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[0] == "system" else roles
        if any(role != ("user", "assistant")[at % 2] for at, role in enumerate(turns)):
            raise ValueError(
                f"The turns are {', '.join(roles)}; after a system turn, if any, user and assistant must alternate, "
                "and the first is the user's."
            )
        if self.system_prompt and roles[0] != "system":
            return [{"role": "system", "content": self.system_prompt}, *messages]
        return messages

    def _mark_typed(self, message: dict) -> dict:
        """A message in which each text stands between marks; the blanks around it, which a template trims, do not."""
        start = TYPED_START * (2 if message["role"] == "assistant" else 1)

        def mark(text: str) -> str:
            text = text.replace(TYPED_START, "").replace(TYPED_END, "")
            inner = text.strip()
            return text.replace(inner, f"{start}{inner}{TYPED_END}", 1) if inner else text

        content = message["content"]
        if isinstance(content, str):
            return {**message, "content": mark(content)}
        parts = [{**part, "text": mark(part["text"])} if part["type"] == "text" else part for part in content]
        return {**message, "content": parts}

    def _read_marks(self, marked: str, spoken_spans: list[tuple[int, int]]) -> _Rendered:
        """A rendered conversation without its marks, and what they said.

        Raises:
            ValueError: the template wrote a part of a text only, so its marks are incomplete.
        """
        spoken = bytearray(len(marked))
        for start, end in spoken_spans:
            end = min(end, len(marked))  # the text may end before its span, where a turn is left open
            spoken[start:end] = b"\1" * (end - start)
        soft = self.tokenizer.image_token
        shown = self.full_image_sequence.replace(soft * self.image_seq_length, soft)
        conversation = _Rendered("", [], bytearray(), set())
        pieces: list[str] = []

        def add(piece: str, text_of: int, is_spoken: bytes | bytearray) -> None:
            pieces.append(piece)
            conversation.text_of += [text_of] * len(piece)
            conversation.is_spoken += is_spoken

        def add_template(start: int, end: int) -> None:
            if TYPED_START in marked[start:end] or TYPED_END in marked[start:end]:
                raise ValueError(
                    "The chat template cuts or changes the text of a message, so special tokens in it cannot be told "
                    "from the template's own. Use a template that writes each text whole."
                )
            for at, piece in enumerate(marked[start:end].split(self.boi_token)):
                if at:
                    add(shown, 0, bytes(len(shown)))
                    start += len(self.boi_token)
                add(piece, 0, spoken[start : start + len(piece)])
                start += len(piece)

        position = 0
        for number, found in enumerate(_MARKED.finditer(marked), start=1):
            add_template(position, found.start())
            add(found[2], number, spoken[found.start(2) : found.end(2)])
            if found[1]:
                conversation.said.add(number)
            position = found.end()
        add_template(position, len(marked))
        conversation.text = "".join(pieces)
        return conversation

    def _tokenize(self, conversations: list[_Rendered]) -> list[list[tuple[int, tuple[int, int]]]]:
        """The tokens of each conversation with their (start, end) in characters; the image's soft token is there once.

        A special token that holds a character of a message is read again as words, until none is left: the tokenizer
        itself finds them, whatever it normalizes and whatever parts they are made of.
        """
        control = self._control_ids()
        tokenized = self._encode([conversation.text for conversation in conversations])
        for at, conversation in enumerate(conversations):
            as_words: list[tuple[int, int]] = []
            while typed := _typed_spans(tokenized[at], conversation, as_words, control, self.seg_token_id):
                as_words = _merged(as_words + typed)
                tokenized[at] = self._encode_around(conversation.text, as_words, control)
        return tokenized

    def _encode_around(
        self, text: str, as_words: list[tuple[int, int]], control: set[int]
    ) -> list[tuple[int, tuple[int, int]]]:
        """The tokens of a text, of which the given spans are read as words."""
        starts = [0, *(end for _, end in as_words)]
        ends = [*(start for start, _ in as_words), len(text)]
        between = self._encode([text[start:end] for start, end in zip(starts, ends, strict=True)])
        tokens: list[tuple[int, tuple[int, int]]] = []
        for number, (start, found) in enumerate(zip(starts, between, strict=True)):
            tokens += [(token, (start + a, start + b)) for token, (a, b) in found]
            if number < len(as_words):
                span = as_words[number]
                tokens += [(token, span) for token in self._read_as_words(text[slice(*span)], control)]
        return tokens

    def _encode(self, texts: list[str]) -> list[list[tuple[int, tuple[int, int]]]]:
        """The tokens of texts, special tokens among them."""
        with tokenizer_lock:
            encoded = self.tokenizer(
                texts, add_special_tokens=False, split_special_tokens=False, return_offsets_mapping=True
            )
        rows = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [list(zip(ids, offsets, strict=True)) for ids, offsets in rows]

    def _read_as_words(self, text: str, control: set[int]) -> list[int]:
        """The tokens of a text in which the tokenizer looks for no special token.

        Where its merges make one all the same, the characters are read one by one.
        """
        backend = self.tokenizer.backend_tokenizer

        def read(part: str) -> list[int]:
            if backend.normalizer is not None:
                part = backend.normalizer.normalize_str(part)
            words = [(part, None)]
            if backend.pre_tokenizer is not None:
                words = backend.pre_tokenizer.pre_tokenize_str(part)
            return [token.id for word, _ in words for token in backend.model.tokenize(word)]

        ids = read(text)
        return ids if control.isdisjoint(ids) else [token for character in text for token in read(character)]

    def _control_ids(self) -> set[int]:
        """The tokens that nobody can type, as the tokenizer knows them now: some may be added after loading."""
        named = ("<start_of_turn>", "<end_of_turn>", self.boi_token, self.tokenizer.eoi_token, self.seg_token)
        added = self.tokenizer.added_tokens_decoder.items()
        special = {token for token, content in added if content.special}
        return special | {*self.tokenizer.all_special_ids, *self.tokenizer.convert_tokens_to_ids(list(named))}


def _typed_spans(
    tokens: list[tuple[int, tuple[int, int]]],
    conversation: _Rendered,
    as_words: list[tuple[int, int]],
    control: set[int],
    seg_token_id: int,
) -> list[tuple[int, int]]:
    """Spans of message characters that became a part of a special token, and are not read as words yet.

    A `[SEG]` inside one text of the model's is none.
    """
    known, typed = set(as_words), []
    for token, (start, end) in tokens:
        if token not in control or (start, end) in known:
            continue
        texts = set(conversation.text_of[start:end])
        if token == seg_token_id and len(texts) == 1 and texts <= conversation.said:
            continue
        for is_typed, group in groupby(range(start, end), key=lambda at: bool(conversation.text_of[at])):
            if is_typed:
                places = list(group)
                typed.append((places[0], places[-1] + 1))
    return typed


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that overlap as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(set(spans)):
        if merged and start < merged[-1][1]:
            end = max(end, merged[-1][1])
            start, _ = merged.pop()
        merged.append((start, end))
    return merged


def _check_message(message: Any) -> None:
    """Raise ValueError for a message that the template would not write whole, or that holds no valid text."""
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise ValueError(f'A message must be {{"role": …, "content": …}}, got {str(message)[:100]}.')
    role, content = message["role"], message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(role, str) or not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"The content of a {str(role)[:100]}'s turn must be a text or a list of parts.")
    known = ("text", "image") if role == "user" else ("text",)
    if wrong := {str(part.get("type"))[:100] for part in parts if part.get("type") not in known}:
        raise ValueError(
            f"The {role[:100]}'s turn holds {', '.join(sorted(wrong)[:3])}; text is taken in every turn, an image in a "
            "user's, and nothing else."
        )
    for part in parts:
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f'A part of the {role[:100]}\'s turn must be {{"type": "text", "text": a text}}.')
        if part["type"] == "text" and (found := _SURROGATE.search(part["text"])):
            raise ValueError(
                f"The {role[:100]}'s text holds U+{ord(found[0]):04X}, half of a character; send valid Unicode."
            )
