"""Helpers for tests of conversations: write, encode and decode them."""

USER, MODEL, END = "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n"
IMAGE = object()  # placeholder for an image in a turn


def encode(processor, conversation, **options):
    return processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt", **options)


def decode(processor, ids):
    """Return the text of tokens, with each image as one <image>."""
    text = processor.tokenizer.decode(ids)
    return text.replace(processor.full_image_sequence, "<image>")


def control_counts(processor, conversation, **options):
    """Return the count of each special token in a conversation, and its text."""
    ((ids, _),) = processor.encode_conversations([conversation], **options)
    names = processor.tokenizer.convert_ids_to_tokens(sorted(processor._control_ids()))
    counts = {name: ids.count(processor.tokenizer.convert_tokens_to_ids(name)) for name in names}
    return counts, processor.tokenizer.decode(ids).replace(processor.full_image_sequence, "<image>")
