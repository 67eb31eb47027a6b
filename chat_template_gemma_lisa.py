"""The chat template, and the tokenization of conversations. Text that a user types never becomes a special token.

Letters: B conversations, L tokens.
"""

import re
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers.utils.chat_template_utils import render_jinja_template

from .images_gemma_lisa import ThreadLock, images_of_rows

# Gemma 3's chat template with {% generation %} around the model's turns, so that labels come from the template.
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


# transformers compiles a template once and stores the {% generation %} spans in it, so only one thread can render it.
_rendering = ThreadLock()
# A comment that makes the template unique to this copy of the module, because each copy has its own lock.
_TEMPLATE_MARK = f"{{# {__name__} #}}"
# transformers sets flags of the tokenizer and then encodes. No other thread may use the tokenizer in between.
tokenizer_lock = ThreadLock()

# Private-use characters around each text of a message while the template renders it. They are removed from the
# user's text first. A text of the model starts with two of them.
TYPED_START, TYPED_END = "\ue000", "\ue001"
_MARKED = re.compile(f"{TYPED_START}({TYPED_START}?)([^{TYPED_START}{TYPED_END}]*){TYPED_END}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def user_turn(text: str, image: Any = None) -> dict[str, Any]:
    """Return a user message: the image, if there is one, and the text after it."""
    shown = [] if image is None else [{"type": "image", "image": image}]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def images_of(messages: list[dict]) -> list[Any]:
    """Return the images of a conversation's messages, unchanged (PIL image or path)."""
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    return [part.get("image", part.get("path", part.get("url"))) for part in parts if part.get("type") == "image"]


@dataclass
class _Rendered:
    """A rendered conversation, with the image tokens in place of `<start_of_image>`.

    Args:
        text: rendered text without marks.
        text_of: for each character, the number of its message text, counted from 1. It is 0 for text of the template.
        is_assistant: for each character, 1 inside the template's generation marks, else 0.
        model_texts: numbers of the message texts that the model wrote.
    """

    text: str
    text_of: list[int]
    is_assistant: bytearray
    model_texts: set[int]


class ChatTemplateMixin:
    """Mixin of `GemmaLisaProcessor` that renders and tokenizes conversations."""

    def encode_conversations(
        self,
        conversations: list[list[dict]],
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
        continue_final_message: bool = False,
    ) -> list[tuple[list[int], list[int]]]:
        """Return (token ids, assistant mask) of each conversation.

        The assistant mask is 1 for the tokens of the model's turns, including `<end_of_turn>`, and 0 elsewhere. The
        ids include the image tokens. `encode_images` encodes the pixels.
        """
        if not conversations:
            return []
        prepared = [
            [self._mark_typed(message) for message in messages] for messages in map(self._complete, conversations)
        ]
        with _rendering:
            texts, assistant_spans = render_jinja_template(
                conversations=prepared,
                chat_template=_TEMPLATE_MARK + (chat_template or self.chat_template),
                return_assistant_tokens_mask=True,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **self.tokenizer.special_tokens_map,
            )
        rendered = [self._read_marks(text, spans) for text, spans in zip(texts, assistant_spans, strict=True)]
        soft, conversations = self.tokenizer.image_token_id, []
        for conversation, tokens in zip(rendered, self._tokenize(rendered), strict=True):
            ids, is_assistant = [], []
            for token, (start, end) in tokens:
                times = self.image_seq_length if token == soft else 1
                ids += [token] * times
                is_assistant += [int(1 in conversation.is_assistant[start:end])] * times
            conversations.append((ids, is_assistant))
        return conversations

    def image_of_each_row(self, input_ids: torch.LongTensor) -> list[int | None]:
        """Return, for each conversation (B, L), the index of its image, or None if it has no image."""
        image_of_row, has_image = images_of_rows(input_ids, self.tokenizer.image_token_id)
        pairs = zip(image_of_row.tolist(), has_image.tolist(), strict=True)
        return [image if is_shown else None for image, is_shown in pairs]

    def _complete(self, messages: list[dict]) -> list[dict]:
        """Check the messages of a conversation, and add the system prompt if they have none.

        Raises:
            ValueError: no message, more than one image, or turns that do not alternate.
        """
        if not messages:
            raise ValueError("The conversation has no messages. It needs at least one user turn.")
        for message in messages:
            _check_message(message)
        if len(images := images_of(messages)) > 1:
            raise ValueError(
                f"A conversation has {len(images)} images, but Gemma-LISA supports one image per conversation. Use a "
                "separate conversation for each image."
            )
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[0] == "system" else roles
        if any(role != ("user", "assistant")[at % 2] for at, role in enumerate(turns)):
            raise ValueError(
                f"The turns are {', '.join(roles)}, but user and assistant must alternate after an optional system "
                "turn, and the user must be first."
            )
        if self.system_prompt and roles[0] != "system":
            return [{"role": "system", "content": self.system_prompt}, *messages]
        return messages

    def _mark_typed(self, message: dict) -> dict:
        """Return the message with marks around each text.

        Spaces at the ends of a text stay outside the marks, because templates trim them.
        """
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

    def _read_marks(self, marked: str, assistant_spans: list[tuple[int, int]]) -> _Rendered:
        """Remove the marks from a rendered conversation, and return what they marked.

        Raises:
            ValueError: the template wrote only a part of a text, so its marks are incomplete.
        """
        is_assistant = bytearray(len(marked))
        for start, end in assistant_spans:
            end = min(end, len(marked))  # if the last turn is left open, the text ends before its span
            is_assistant[start:end] = b"\1" * (end - start)
        soft = self.tokenizer.image_token
        shown = self.full_image_sequence.replace(soft * self.image_seq_length, soft)
        conversation = _Rendered("", [], bytearray(), set())
        pieces: list[str] = []

        def add(piece: str, text_of: int, is_assistant: bytes | bytearray) -> None:
            pieces.append(piece)
            conversation.text_of += [text_of] * len(piece)
            conversation.is_assistant += is_assistant

        def add_template(start: int, end: int) -> None:
            if TYPED_START in marked[start:end] or TYPED_END in marked[start:end]:
                raise ValueError(
                    "The chat template cuts or changes the text of a message, so special tokens in the text cannot be "
                    "distinguished from those of the template. Use a template that copies each text unchanged."
                )
            for at, piece in enumerate(marked[start:end].split(self.boi_token)):
                if at:
                    add(shown, 0, bytes(len(shown)))
                    start += len(self.boi_token)
                add(piece, 0, is_assistant[start : start + len(piece)])
                start += len(piece)

        position = 0
        for number, found in enumerate(_MARKED.finditer(marked), start=1):
            add_template(position, found.start())
            add(found[2], number, is_assistant[found.start(2) : found.end(2)])
            if found[1]:
                conversation.model_texts.add(number)
            position = found.end()
        add_template(position, len(marked))
        conversation.text = "".join(pieces)
        return conversation

    def _tokenize(self, conversations: list[_Rendered]) -> list[list[tuple[int, tuple[int, int]]]]:
        """Return the tokens of each conversation with their (start, end) in characters. The image token occurs once.

        If a special token contains a character of a message, that part is tokenized again as plain text. This repeats
        until no such token is left. The tokenizer itself finds the special tokens, so its normalization is respected.
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
        """Return the tokens of a text in which the given spans are tokenized as plain text."""
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
        """Return the tokens of each text, including special tokens."""
        with tokenizer_lock:
            encoded = self.tokenizer(
                texts, add_special_tokens=False, split_special_tokens=False, return_offsets_mapping=True
            )
        rows = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [list(zip(ids, offsets, strict=True)) for ids, offsets in rows]

    def _read_as_words(self, text: str, control: set[int]) -> list[int]:
        """Return the tokens of a text without looking for special tokens.

        If the merges of the tokenizer still produce one, each character is tokenized separately.
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
        """Return the tokens that a user must not be able to type. They can be added after the tokenizer is loaded."""
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
    """Return the spans of message text that became part of a special token and are not in `as_words` yet.

    A `[SEG]` inside one text of the model is allowed.
    """
    known, typed = set(as_words), []
    for token, (start, end) in tokens:
        if token not in control or (start, end) in known:
            continue
        texts = set(conversation.text_of[start:end])
        if token == seg_token_id and len(texts) == 1 and texts <= conversation.model_texts:
            continue
        for is_typed, group in groupby(range(start, end), key=lambda at: bool(conversation.text_of[at])):
            if is_typed:
                places = list(group)
                typed.append((places[0], places[-1] + 1))
    return typed


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans sorted, with overlapping spans merged."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(set(spans)):
        if merged and start < merged[-1][1]:
            end = max(end, merged[-1][1])
            start, _ = merged.pop()
        merged.append((start, end))
    return merged


def _check_message(message: Any) -> None:
    """Check one message.

    Raises:
        ValueError: the message has the wrong structure, a part that is not supported, or invalid Unicode.
    """
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise ValueError(f'A message must be {{"role": …, "content": …}}, got {str(message)[:100]}.')
    role, content = message["role"], message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(role, str) or not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"The content of a message must be a string or a list of parts (dicts), got {type(content).__name__} in a "
            f"message of role {str(role)[:100]}."
        )
    known = ("text", "image") if role == "user" else ("text",)
    if wrong := {str(part.get("type"))[:100] for part in parts if part.get("type") not in known}:
        raise ValueError(
            f"A message of role {role[:100]} has parts of type {', '.join(sorted(wrong)[:3])}. Supported types: "
            "text in every message, image in user messages only."
        )
    for part in parts:
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise ValueError(
                f'A text part must be {{"type": "text", "text": a string}}, got a text of type '
                f"{type(part.get('text')).__name__} in a message of role {role[:100]}."
            )
        if part["type"] == "text" and (found := _SURROGATE.search(part["text"])):
            raise ValueError(
                f"A text of role {role[:100]} contains U+{ord(found[0]):04X}, a lone surrogate. Pass valid Unicode."
            )
