"""Training of masks only: the frozen language model reads each text once, without its image.

The bridge and SAM's decoder need many masks to learn. While the language model is frozen and sees no image, its state
at `[SEG]` depends on the text alone. So the state is computed once per text, and a step costs as much as SAM.
"""

import re
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gemma_lisa.bridge_gemma_lisa import SegStates
from gemma_lisa.images_gemma_lisa import images_of_rows
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.safety.errors import UsageError

from .distributed import asks_for_fsdp
from .training_arguments import GemmaLisaTrainingArguments

TEXTS_AT_ONCE = 64  # per forward pass
MOST_TEXTS = 100_000  # in memory: 256 MB for states of 640 numbers, 1 GB for 2,560
TEXT_MODEL = "language_model."
SEEING = re.compile(r"\bmodel\.(vision_tower|multi_modal_projector)\.")
# Inputs of `forward` that are not about tokens
OF_IMAGES = (
    *("pixel_values", "image_features", "sam_pixel_values", "image_embeddings"),
    *("original_sizes", "reshaped_input_sizes", "prepared"),
)


def freeze_text_model(model: nn.Module, args: GemmaLisaTrainingArguments) -> None:
    """Freeze the language model, its LoRA layers and the row of `[SEG]`.

    Raises:
        UsageError: an engine splits the language model over the processes, or an option cannot be combined with it.
    """
    if args.self_check:
        raise UsageError("self_check tests training on text and cannot be combined with learn_text: false. Remove it.")
    if args.deepspeed or asks_for_fsdp(args):
        raise UsageError("learn_text: false needs the whole language model in each process. Train without an engine.")
    for name, parameter in model.named_parameters():
        if TEXT_MODEL in name:
            parameter.requires_grad_(False)
        elif parameter.requires_grad and SEEING.search(name) and model.config.bridge == "mlp":
            raise UsageError(
                f"trainable: with learn_text: false and the bridge mlp, nothing depends on {name}. Remove its pattern."
            )


class TextStates:
    """States at `[SEG]` of texts without images, which are computed once.

    Args:
        model: a Gemma-LISA with a frozen language model, with or without an adapter.
    """

    def __init__(self, model: nn.Module):
        self.model: GemmaLisaForConditionalGeneration = getattr(model, "get_base_model", lambda: model)()
        self.known: dict[tuple[int, ...], torch.Tensor] = {}  # tokens up to [SEG] -> (D,)

    def in_place_of_tokens(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of `forward` with states at `[SEG]` in place of the tokens of a batch."""
        texts = self._texts(inputs["input_ids"], inputs["question_ids"], inputs["prepared"].seg_positions)
        image_of_row, _ = images_of_rows(inputs["input_ids"], self.model.config.image_token_id)
        rows = inputs["prepared"].seg_positions // inputs["input_ids"].shape[1]
        kept = {name: inputs[name] for name in OF_IMAGES if name in inputs}
        places = dict.fromkeys(("shape", "learned_positions", "seg_positions", "image_positions"))
        if inputs["prepared"].mask_targets is None:  # a batch on text learns nothing, but its loss must exist
            none = {"mask_targets": torch.zeros(0, 1, 1, dtype=torch.uint8), "mask_sizes": torch.zeros(0, 2).long()}
            places |= none | {"mask_loss_size": self.model.config.mask_loss_size}
        kept["prepared"] = replace(kept["prepared"], **places)
        states = self._states(texts)  # (S, D)
        return kept | {"seg_states": SegStates(states, image_of_row[rows], None, states.new_zeros(1, states.shape[1]))}

    def _texts(
        self, input_ids: torch.LongTensor, question_ids: torch.LongTensor, seg_positions: torch.LongTensor
    ) -> list[tuple[int, ...]]:
        """Return the tokens up to the state of each `[SEG]`, without those of the image, for a batch (B, L)."""
        config = self.model.config
        of_image = torch.tensor(
            [config.image_token_id, config.boi_token_index, config.eoi_token_index], device=input_ids.device
        )
        is_text = ~torch.isin(input_ids, of_image)
        texts = []
        for position in seg_positions.tolist():
            row, column = divmod(position, input_ids.shape[1])
            end = column + int(config.seg_state == "token")
            questions = question_ids[row]
            is_read = is_text[row] & ((questions == 0) | (questions == questions[column]))
            texts.append(tuple(input_ids[row, :end][is_read[:end]].tolist()))
        return texts

    @torch.no_grad()
    def _states(self, texts: list[tuple[int, ...]]) -> torch.FloatTensor:
        """Return the states (S, D) at the last tokens of the texts."""
        device = self.model.device
        if len(self.known) > MOST_TEXTS:
            self.known.clear()
        new = sorted({text for text in texts if text not in self.known}, key=len)
        text_model = self.model.model.language_model
        was_training = text_model.training
        text_model.eval()  # a state that is kept must not depend on one draw of LoRA's dropout
        for start in range(0, len(new), TEXTS_AT_ONCE):
            some = new[start : start + TEXTS_AT_ONCE]
            ids = torch.zeros(len(some), len(some[-1]), dtype=torch.long)  # (N, L)
            mask = torch.zeros_like(ids)  # (N, L)
            for at, text in enumerate(some):
                ids[at, : len(text)], mask[at, : len(text)] = torch.tensor(text), 1
            read = text_model(input_ids=ids.to(device), attention_mask=mask.to(device))
            for at, text in enumerate(some):
                self.known[text] = read.last_hidden_state[at, len(text) - 1].clone()
        text_model.train(was_training)
        size = self.model.config.get_text_config().hidden_size
        states = [self.known[text] for text in texts]
        return torch.stack(states) if states else torch.zeros(0, size, device=device)
