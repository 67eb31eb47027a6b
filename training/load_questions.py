"""Load the questions for training and evaluation, without photos of held-out splits."""

from pathlib import Path
from typing import Any

from gemma_lisa.datasets_builder.leakage import held_out_images, held_out_names
from gemma_lisa.datasets_builder.mixture import load_mixture, load_rows, load_training_rows, sets_of, tolerating
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.streams import StreamedQuestions
from gemma_lisa.datasets_builder.templates import ENGLISH, Phrasing
from gemma_lisa.safety.parsing import parse_json

from .arguments import DataArguments
from .training_arguments import GemmaLisaTrainingArguments


def find_held_out(data_args: DataArguments) -> dict[int | str, str] | None:
    """Return the photos not to train on (`leakage.photo_of`), {} if no split is known; None allows all."""
    if data_args.allow_leakage:
        return None
    folders = [data_args.data_dir, *(options.get("data_dir") for options in sets_of(data_args.mixture or {}).values())]
    held_out = {}
    for folder in dict.fromkeys(folder for folder in folders if folder is not None):
        if (Path(folder) / "refer_seg").is_dir():
            held_out |= held_out_images(folder)
        held_out |= held_out_names(folder)
    return held_out


def load_questions(
    data_args: DataArguments, args: GemmaLisaTrainingArguments, held_out: dict[int | str, str] | None
) -> tuple[TrainingQuestions | MixtureQuestions | StreamedQuestions, EvaluationQuestions]:
    """Return the questions to train on and those to evaluate on.

    Raises:
        ValueError: the data or their names are wrong.
    """
    return training_questions(data_args, args, held_out), evaluation_questions(data_args)


def training_questions(
    data_args: DataArguments, args: GemmaLisaTrainingArguments, held_out: dict[int | str, str] | None
) -> TrainingQuestions | MixtureQuestions | StreamedQuestions:
    """Return the questions to train on."""
    translations = _read_translations(data_args.translations)
    phrasing = Phrasing(data_args.languages or {ENGLISH: 1.0}, translations, data_args.conversation_share)
    place = (data_args.train_split, data_args.data_dir)
    if data_args.mixture is None:
        options = tolerating(data_args.dataset, data_args.dataset_options, data_args.max_bad)
        rows = load_training_rows(data_args.dataset, *place, options, held_out)
        return TrainingQuestions(rows, args.order_seed, data_args.max_questions, phrasing)
    parts = load_mixture(data_args.mixture, *place, held_out, data_args.streaming, data_args.max_bad)
    if data_args.streaming:
        readers = (args.process_index, args.world_size, args.dataloader_num_workers)
        return StreamedQuestions(parts, args.order_seed, data_args.max_questions, phrasing, *readers)
    return MixtureQuestions(parts, args.order_seed, data_args.max_questions, data_args.epoch_length, phrasing)


def evaluation_questions(data_args: DataArguments) -> EvaluationQuestions:
    """Return the questions to evaluate on."""
    name = data_args.eval_dataset or data_args.dataset
    options = data_args.dataset_options if name == data_args.dataset else sets_of(data_args.mixture or {}).get(name)
    options = tolerating(name, options, data_args.max_bad)
    rows = load_rows(name, data_args.eval_split, options.pop("data_dir", data_args.data_dir), options)
    if data_args.eval_rows is not None:
        rows = rows.select(range(min(data_args.eval_rows, len(rows))))
    questions = EvaluationQuestions(rows, with_conversations=False)
    if not len(questions):
        raise ValueError(
            f"{name} {data_args.eval_split} has no questions for masks. Set eval_dataset to a set that does."
        )
    return questions


def _read_translations(file: str | None) -> dict[str, Any]:
    """Return the table of `translations`, {} without a file."""
    if file is None:
        return {}
    try:
        translations = parse_json(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"translations: {file} cannot be read as JSON ({error}).") from error
    if not isinstance(translations, dict):
        raise ValueError(f'translations: {file} must contain a JSON object of languages, such as {{"ja": ...}}.')
    return translations
