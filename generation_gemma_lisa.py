"""Generation with masks: `segment`, a mixin of `GemmaLisaForConditionalGeneration`.

Letters: B conversations, L tokens of a prompt, T new tokens, I images, S new [SEG] tokens, D Gemma's hidden size.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, GenerationConfig

from .bridge_gemma_lisa import SegStates, project, shares_of_images
from .compatibility_gemma_lisa import CACHE_NAME, one_of
from .images_gemma_lisa import images_of_rows
from .mask_decoding_gemma_lisa import MASKS_AT_ONCE, decode_with_prompts, no_embeddings, user_prompts
from .outputs_gemma_lisa import SegmentOutput
from .packing_gemma_lisa import masks_of_prompts
from .prefix_gemma_lisa import SharedPrefix, find_shared_prefix, is_empty_dynamic, read_after_prefix

# Options of `segment` without a generation configuration.
GREEDY = {"do_sample": False, "num_beams": 1}
MAX_NEW_TOKENS = 64
# Options of `generate` that have no effect without sampling, or without several beams.
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
BEAMS = {"length_penalty", "early_stopping"}


class SegmentationMixin:
    """Mixin of the model: `segment`, and the overrides of the generation loop that it needs."""

    @torch.no_grad()
    def segment(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        sam_pixel_values: torch.FloatTensor | None = None,
        image_features: torch.FloatTensor | None = None,
        image_embeddings: torch.FloatTensor | None = None,
        image_index: torch.LongTensor | None = None,
        original_sizes: torch.LongTensor | None = None,
        reshaped_input_sizes: torch.LongTensor | None = None,
        max_new_tokens: int | None = None,
        points: list[Any] | None = None,
        boxes: list[Any] | None = None,
        multimask_output: bool = False,
        generation_config: GenerationConfig | None = None,
        **generate_options: Any,
    ) -> SegmentOutput:
        """Generate answers, and predict a mask for every `[SEG]` in them. Generation is greedy by default.

        The inputs are the processor's output for conversations with a generation prompt, padded on the left, with
        shapes as in `forward`. Several threads can call it, because it stores nothing on the model.

        Args:
            image_index: index of the image of each conversation that has one, if several are about the same image.
                Each image is then passed, encoded and read once. Default: each conversation has its own image.
            original_sizes, reshaped_input_sizes: (height, width) in pixels for each conversation with an image. Points,
                boxes, the bridge "heat_map" and the processor's `post_process_segmentation` need them.
            max_new_tokens: maximum number of new tokens (default: 64, or the value of `generation_config`).
            points, boxes: one item per image, for all its `[SEG]`. Points: None, or (N, 3) with x, y in pixels of the
                image and label, 1 (foreground) or 0. Boxes: None, or left, top, right, bottom in pixels of the image.
            multimask_output: return the best-scored of SAM's three masks, not the single one, which is trained.
            generation_config: replaces the greedy defaults, for example for sampling or beam search.
            generate_options: further arguments of `generate`, such as `do_sample`, `streamer`, `stopping_criteria`.

        Returns:
            `SegmentOutput` with masks of the new tokens only. A conversation without an image has no mask.

        Raises:
            ValueError: inputs whose counts do not match; points or boxes outside their image; an option of sampling or
                beam search without them; a model in training mode with activation checkpointing.
        """
        self.check_can_generate()
        options = self._generation_options(max_new_tokens, generation_config, generate_options)
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prompt = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        prompt |= {"pixel_values": pixel_values, "image_features": image_features}
        image_of = self._check_prompt(prompt, sam_pixel_values, image_embeddings, image_index)
        prompts = user_prompts(points, boxes, original_sizes, reshaped_input_sizes, len(image_of))
        prompt, shared = self._with_features(prompt), None
        features = prompt["image_features"]  # (J, 256, D)
        if image_index is not None and len(image_of):
            prompt, shared = self._share_images(prompt, image_of, options, prompts)
        sequences, steps = self._generate(prompt, options, shared)  # (B * R, L + T)
        if sam_pixel_values is None and image_embeddings is None:
            return SegmentOutput(sequences=sequences)
        shares = shares_of_images(self.image_shares(reshaped_input_sizes, is_needed=len(image_of) > 0), image_of)
        seg = self._find_new_seg(prompt, sequences, steps, (image_embeddings, features, shares))
        return self._masks_of(seg, sequences, prompts, sam_pixel_values, image_of, multimask_output)

    def _with_features(self, prompt: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
        """Return the prompts with encoded images, if the bridge needs them too."""
        if self.config.bridge == "mlp" or prompt["pixel_values"] is None:
            return prompt
        return prompt | {"pixel_values": None, "image_features": self.encode_for_gemma(prompt["pixel_values"])}

    def _share_images(
        self,
        prompt: dict[str, torch.Tensor | None],
        image_of: torch.LongTensor,
        options: dict[str, Any],
        prompts: list[tuple] | None,
    ) -> tuple[dict[str, torch.Tensor | None], SharedPrefix | None]:
        """Return the prompts with the features of each conversation's image, and what is read only once.

        Args:
            prompt: inputs of `segment`, with the pixels or features of J images.
            image_of: index of the image of each conversation that has one.
            options: of `generate`.
            prompts: points and boxes.

        Raises:
            ValueError: with points or boxes.
        """
        if prompts is not None:
            raise ValueError("points and boxes cannot be combined with image_index. Pass each image separately.")
        features = prompt["image_features"]
        features = self.encode_for_gemma(prompt["pixel_values"]) if features is None else features  # (J, 256, D)
        shared = find_shared_prefix(prompt, features, image_of, options, self.config)
        return prompt | {"pixel_values": None, "image_features": features[image_of.to(features.device)]}, shared

    def check_can_generate(self) -> None:
        """Raise an error if generation would silently give wrong results.

        Raises:
            ValueError: fp16; training mode with activation checkpointing, which disables the KV cache.
        """
        self.refuse_fp16()
        # The name of transformers' own property differs between releases
        is_checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in self.modules())
        if self.training and is_checkpointing:
            raise ValueError(
                "The model is in training mode with activation checkpointing, which disables the KV cache. "
                "Call model.eval() first."
            )

    def prepare_inputs_for_generation(
        self,
        *args,
        seg_steps: list[torch.Tensor] | None = None,
        shared_prefix: SharedPrefix | None = None,
        **kwargs,
    ):
        """Return the inputs of Gemma only, so that SAM does not run at every generation step.

        `segment` collects states in `seg_steps`. `forward` must not receive this list: a compiled `forward` would be
        recompiled each time the list grows. A `shared_prefix` is read here, and `forward` reads the rest.
        """
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        for name in ("sam_pixel_values", "image_embeddings", "original_sizes", "reshaped_input_sizes"):
            inputs.pop(name, None)
        is_image, mask = inputs.get("token_type_ids"), inputs.get("attention_mask")
        if is_image is None:  # a step after the prompt: the image is in the KV cache
            inputs.pop("image_features", None)
            return inputs
        if mask is None and inputs.get("input_ids") is not None:  # `generate` drops a mask without padding
            mask = torch.ones_like(inputs["input_ids"])
        if is_empty_dynamic(inputs.get(CACHE_NAME)) and mask is not None and mask.shape == is_image.shape:
            if shared_prefix is not None:
                return read_after_prefix(self, shared_prefix, inputs | {"attention_mask": mask})
            inputs["attention_mask"] = masks_of_prompts(mask, is_image, self.config.text_config)
        return inputs

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, num_new_tokens: int = 1, **kwargs):
        """Store the states that predict the accepted tokens. Assisted generation accepts several per step."""
        if (steps := model_kwargs.get("seg_steps")) is not None:
            # A copy, because a compiled step can write its next output to the same memory
            steps.append(outputs.last_hidden_state[:, :num_new_tokens].clone())
        return super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, *args, num_new_tokens=num_new_tokens, **kwargs
        )

    def _generation_options(
        self, max_new_tokens: int | None, generation_config: GenerationConfig | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of `generate`: greedy, unless a configuration is given. Errors as in `segment`."""
        if generation_config is None:
            options = GREEDY | options
        _check_options(options, generation_config or self.generation_config, self.generation_config)
        if max_new_tokens is None and generation_config is None and "max_length" not in options:
            max_new_tokens = MAX_NEW_TOKENS
        if max_new_tokens is not None:
            options["max_new_tokens"] = max_new_tokens
        options["return_dict_in_generate"] = True
        if generation_config is not None:  # future releases of `generate` accept either a configuration or options
            generation_config = copy.deepcopy(generation_config)
            options = generation_config.update(**options)
        return options | {"generation_config": generation_config}

    def _check_prompt(
        self,
        prompt: dict[str, torch.Tensor | None],
        sam_pixel_values: torch.FloatTensor | None,
        image_embeddings: torch.FloatTensor | None,
        image_index: torch.LongTensor | None,
    ) -> torch.LongTensor:
        """Return the index of the image of each prompt (B, L) that has one. Raise as `segment`."""
        if not bool(prompt["attention_mask"][:, -1].all()):
            raise ValueError(
                "segment needs prompts that are padded on the left, but the last column has padding. Pass "
                'padding_side="left" to the processor.'
            )
        one_of(pixel_values=prompt["pixel_values"], image_features=prompt["image_features"])
        _, has_image = images_of_rows(prompt["input_ids"], self.config.image_token_id)
        count = num_images = int(has_image.sum())
        if image_index is not None:
            image_index = torch.as_tensor(image_index)
            if len(image_index) != count or (count and int(image_index.min()) < 0):
                raise ValueError(f"image_index must have one index for each conversation with an image ({count}).")
            num_images = int(image_index.max()) + 1 if count else 0
        for name, images in (
            ("pixel_values", prompt["pixel_values"]),
            ("image_features", prompt["image_features"]),
            ("sam_pixel_values", sam_pixel_values),
            ("image_embeddings", image_embeddings),
        ):
            if images is not None and len(images) != num_images:
                each = "index in image_index" if image_index is not None else "conversation with an image"
                raise ValueError(
                    f"{name} must have one image for each {each} ({num_images}), got {len(images)}. Pass all outputs "
                    "of one call of the processor."
                )
        if count and prompt["pixel_values"] is None and prompt["image_features"] is None:
            raise ValueError(
                f"{count} conversations have an image, but pixel_values is missing. Pass all outputs of the processor."
            )
        return torch.arange(count, device=has_image.device) if image_index is None else image_index

    def _generate(
        self,
        prompt: dict[str, torch.Tensor | None],
        options: dict[str, Any],
        shared: SharedPrefix | None,
    ) -> tuple[torch.LongTensor, list[torch.Tensor]]:
        """Return the sequences (B * R, L + T), and the states of each step, (B * R, tokens, D).

        There are no states after beam search or with an assistant model.
        """
        steps: list[torch.Tensor] = []
        if "assistant_model" not in options:  # the assistant model would receive the list too
            options = options | {"seg_steps": steps}
        given = prompt if shared is None else shared.reorder(prompt)
        generated = self.generate(**given, **options, shared_prefix=shared)
        has_beams = generated.get("beam_indices") is not None  # then the steps include other sequences
        sequences, input_ids = generated.sequences, prompt["input_ids"]
        if shared is not None:
            input_ids = input_ids.repeat_interleave(len(sequences) // len(input_ids), dim=0)
            sequences = torch.cat([input_ids, sequences[:, input_ids.shape[1] :]], dim=1)
        return sequences, [] if has_beams else steps

    def _find_new_seg(
        self,
        prompt: dict[str, torch.Tensor | None],
        sequences: torch.LongTensor,
        steps: list[torch.Tensor],
        images: tuple[torch.FloatTensor | None, ...],
    ) -> SegStates:
        """Return the states at the new `[SEG]` of the sequences (B * R, L + T) with an image. images: encoded."""
        input_ids = prompt["input_ids"]  # (B, L)
        each = len(sequences) // len(input_ids)  # R
        of_rows = images_of_rows(input_ids, self.config.image_token_id)
        image_of_row, has_image = (of_row.repeat_interleave(each) for of_row in of_rows)  # (B * R,)
        is_seg = sequences[:, input_ids.shape[1] :] == self.config.seg_token_id  # (B * R, T)
        is_seg = is_seg & has_image[:, None].to(is_seg.device)
        states = self._states_of_new_tokens(steps, is_seg, prompt, sequences)  # (B * R, T, D)
        image_index = image_of_row.to(is_seg.device)[is_seg.nonzero()[:, 0]]  # (S,)
        embeddings, features, shares = images
        return SegStates(states[is_seg], image_index, embeddings, states[:1, 0], features, shares)

    def _masks_of(
        self,
        seg: SegStates,
        sequences: torch.LongTensor,
        prompts: list[tuple] | None,
        sam_pixel_values: torch.FloatTensor | None,
        image_of: torch.LongTensor,
        multimask_output: bool,
    ) -> SegmentOutput:
        """Return the output of `segment` for the states at the new `[SEG]` tokens."""
        encoded, prompts = self._encode_shown(seg, prompts, sam_pixel_values, image_of)
        masks, scores = self._decode_new_seg(encoded, prompts, multimask_output)
        has_all = sam_pixel_values is None or len(encoded.image_embeddings) == len(sam_pixel_values)
        return SegmentOutput(sequences, masks, scores, seg.image_index, encoded.image_embeddings if has_all else None)

    def _encode_shown(
        self,
        seg: SegStates,
        prompts: list[tuple] | None,
        sam_pixel_values: torch.FloatTensor | None,
        image_of: torch.LongTensor,
    ) -> tuple[SegStates, list[tuple] | None]:
        """Run SAM's encoder on the images that have a `[SEG]`. Return states and prompts for these images only.

        If the images are already encoded, only the indices change.

        Args:
            image_of: index of the image of each conversation that has one.
        """
        images = image_of.to(seg.image_index.device)[seg.image_index]  # (S,)
        if seg.image_embeddings is not None:
            return replace(seg, image_index=images), prompts
        shown = images.unique()  # (J,), sorted
        embeddings = no_embeddings(seg.states, self.config)
        if len(shown):
            embeddings = self.encode_for_sam(sam_pixel_values[shown.to(sam_pixel_values.device)])
        prompts = prompts and [prompts[image] for image in shown.tolist()]
        return seg.about(shown, embeddings, torch.searchsorted(shown, images)), prompts

    def _decode_new_seg(
        self, seg: SegStates, prompts: list[tuple] | None, multimask_output: bool
    ) -> tuple[torch.FloatTensor, torch.FloatTensor]:
        """Return mask logits (S, 256, 256) and scores (S,), using the points and boxes of each image if given."""
        if len(seg.states) == 0:
            side = 4 * seg.image_embeddings.shape[-1]  # SAM's decoder enlarges its grid four times
            return seg.states.new_zeros(0, side, side), seg.states.new_zeros(0)
        if prompts is not None:
            asked = project(self.seg_projector, seg)
            return decode_with_prompts(
                self.sam, asked, seg.image_embeddings, seg.image_index, prompts, multimask_output
            )
        chunks = zip(seg.states.split(MASKS_AT_ONCE), seg.image_index.split(MASKS_AT_ONCE), strict=True)
        decoded = [
            self._decode_masks(replace(seg, states=states, image_index=images), multimask_output)
            for states, images in chunks
        ]
        return torch.cat([part.masks for part in decoded]), torch.cat([part.scores for part in decoded])

    def _states_of_new_tokens(
        self,
        steps: list[torch.Tensor],
        is_seg: torch.BoolTensor,
        prompt: dict[str, torch.Tensor | None],
        sequences: torch.LongTensor,
    ) -> torch.FloatTensor:
        """Return, for each new token, the state that prompts SAM if the token is `[SEG]`: (B * R, T, D).

        The states are those of the generation steps. Another forward pass computes them after beam search, or if the
        state at the last token is needed, which generation does not compute.
        """
        count = is_seg.shape[1]  # T
        predicting = torch.cat(steps, dim=1).to(is_seg.device) if steps else None  # (B * R, T, D)
        is_at_token = self.config.seg_state == "token"
        if predicting is not None and is_at_token and not is_seg[:, -1].any():
            predicting = F.pad(predicting, (0, 0, 0, 1))  # the state at the last token is not needed
        needed = count + is_at_token
        if predicting is None or predicting.shape[1] < needed:
            predicting = self._read_again(prompt, sequences).to(is_seg.device)
        return predicting[:, needed - count : needed]

    def _read_again(self, prompt: dict[str, torch.Tensor | None], sequences: torch.LongTensor) -> torch.FloatTensor:
        """Return Gemma's states that predict each new token, and the state at the last one: (B * R, T + 1, D)."""
        each = len(sequences) // len(prompt["input_ids"])  # R
        prompt = {name: value.repeat_interleave(each, dim=0) for name, value in prompt.items() if value is not None}
        mask, new_tokens = prompt["attention_mask"], sequences[:, prompt["input_ids"].shape[1] :]
        mask = F.pad(mask, (0, new_tokens.shape[1]), value=1)  # (B * R, L + T)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        length = prompt["input_ids"].shape[1]
        # Two passes, because an image token that the model generated does not stand for an image
        cache = DynamicCache()
        features = prompt.pop("image_features", None)
        inputs = {**prompt, "position_ids": positions[:, :length], "use_cache": True, CACHE_NAME: cache}
        first = self._run_gemma(inputs.pop("input_ids"), None, None, features, None, inputs)
        then = self.model(
            input_ids=new_tokens, attention_mask=mask, position_ids=positions[:, length:], **{CACHE_NAME: cache}
        )
        return torch.cat([first.last_hidden_state[:, -1:], then.last_hidden_state], dim=1)


def _check_options(options: dict[str, Any], *defaults: GenerationConfig) -> None:
    """Refuse options of `generate` that would have no effect.

    Args:
        options: given options. None and False count as not given.
        defaults: configurations with the values of other options. The first that has a value applies.

    Raises:
        ValueError: an option of sampling or beam search without them, of an output that is not returned, or of reading
            prompts in chunks.
    """
    sources = [options, *(default.to_dict() for default in defaults)]

    def is_on(name: str, minimum: int) -> bool:
        return next((int(source[name]) >= minimum for source in sources if source.get(name) is not None), False)

    options = {name: value for name, value in options.items() if value not in (None, False)}
    if not is_on("do_sample", 1) and (idle := options.keys() & SAMPLING):
        raise ValueError(f"{min(idle)} has no effect without sampling. Also pass do_sample=True.")
    if not is_on("num_beams", 2) and (idle := options.keys() & BEAMS):
        raise ValueError(f"{min(idle)} has no effect without beam search. Also pass num_beams (at least 2).")
    if is_on("prefill_chunk_size", 1):
        raise ValueError("segment does not support prefill_chunk_size: an image must be read at once. Remove it.")
    if unused := [name for name in options if name.startswith(("output_", "return_dict"))]:
        raise ValueError(f"segment does not support {unused[0]}. Call generate for these outputs.")
