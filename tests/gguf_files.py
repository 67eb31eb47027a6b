"""Tiny GGUF files, as llama.cpp converts Gemma 3."""

from pathlib import Path

import torch
from stock_checkpoints import randomize
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
MARKS = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"]
MERGED = ["▁t", "he", "▁the", "re", "red", "▁red"]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # token types of llama.cpp


def vocabulary():
    """Return tokens, scores and types of a SentencePiece vocabulary with byte fallback."""
    tokens = SPECIAL + MARKS
    types = [UNKNOWN if token == "<unk>" else CONTROL for token in tokens]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    types += [BYTE] * len(pieces)
    characters = ["▁", "\n", *sorted(set("abcdefghijklmnopqrstuvwxyz.?"))]
    types += [NORMAL] * (len(characters) + len(MERGED))
    tokens = [*tokens, *pieces, *characters, *MERGED]
    return tokens, [-float(number) for number in range(len(tokens))], types


def gguf_model(layers=2):
    """Return the stock Gemma 3 whose weights `write_gguf` writes."""
    config = Gemma3TextConfig(
        vocab_size=len(vocabulary()[0]),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=8,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
    )
    return randomize(Gemma3ForCausalLM(config), seed=5)


def write_gguf(path: Path, architecture="gemma3", quantized=False, layers=2, drop=None) -> Path:
    """Write a GGUF file.

    Args:
        architecture: written into the file.
        quantized: write matrices in Q8_0, which changes them slightly.
        layers: number of layers.
        drop: name of a tensor that is not written.
    """
    import gguf

    model = gguf_model(layers)
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(1e6)
    tokens, scores, types = vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    for name, add in (
        ("<bos>", writer.add_bos_token_id),
        ("<eos>", writer.add_eos_token_id),
        ("<unk>", writer.add_unk_token_id),
        ("<pad>", writer.add_pad_token_id),
    ):
        add(tokens.index(name))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, layers)
    for key, weight in model.model.state_dict().items():
        name = names.get_name(f"model.{key.removesuffix('.weight')}") + ".weight"
        values = weight.float()
        if "norm" in name:
            values = values + 1  # llama.cpp stores the factor, Gemma its difference from 1
        values = values.contiguous().numpy()
        if name == drop:
            continue
        if quantized and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix as it is after writing and reading in Q8_0."""
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.float().numpy(), kind), kind))
