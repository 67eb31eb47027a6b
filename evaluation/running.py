"""Answer all questions of a benchmark in batches, in one or several processes, and resume where it was interrupted.

The batches are formed from the questions alone. So each answer is the same with any number of processes, and after an
interruption.
"""

import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gemma_lisa.safety.short_text import count_of

from .parts import Answers, PartWriter, locked, open_parts
from .processes import Processes
from .records import Prediction

MIN_FILL = 0.75  # share of a batch, see `plan_batches`
Answer = Callable[[list[dict[str, Any]]], list[Prediction]]


def plan_batches(texts: Sequence[str], images: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Return batches of question numbers: questions of one image together, sorted by their longest text.

    Args:
        texts: of each question.
        images: equal for questions about the same image that belong in one batch; None for a question without an image.
        batch_size: maximum number of questions per batch. The questions of an image are in two batches, and it is
            encoded twice, only if a batch would be less than MIN_FILL full without them.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, image in enumerate(images):
        groups.setdefault((True, image) if image is not None else (False, number), []).append(number)
    sizes = {key: max(len(texts[number]) for number in numbers) for key, numbers in groups.items()}
    # Without an image, a prompt is shorter by hundreds of tokens
    order = sorted(groups, key=lambda key: (key[0], sizes[key], groups[key][0]))
    batches: list[list[int]] = [[]]
    for key in order:
        numbers = groups[key]
        if len(batches[-1]) + len(numbers) > batch_size and len(batches[-1]) >= MIN_FILL * batch_size:
            batches.append([])
        for number in numbers:
            if len(batches[-1]) == batch_size:
                batches.append([])
            batches[-1].append(number)
    return [batch for batch in batches if batch]


def answer_all(
    samples: Sequence[dict[str, Any]],
    ids: Sequence[str],
    batches: list[list[int]],
    answer: Answer,
    folder: Path,
    settings: dict[str, Any],
    processes: Processes,
    fresh: bool = False,
) -> list[Prediction]:
    """Return a prediction for every question, in the order of the questions. Processes but the first return [].

    Args:
        samples: the questions, as `datasets_builder.questions.EvaluationQuestions`.
        ids: id of each question.
        batches: from `plan_batches`.
        answer: returns the predictions for a batch of samples.
        folder: of the answers so far, see `parts`. It is kept until `parts.delete_parts`.
        settings, fresh: as in `parts.open_parts`.
        processes: those that share the batches.

    Raises:
        UsageError, ValueError, WriteError: as `parts.open_parts`, or from `answer`.
    """
    if processes.is_first:
        with locked(folder):
            return _answer_all(samples, ids, batches, answer, folder, settings, processes, fresh)
    return _answer_all(samples, ids, batches, answer, folder, settings, processes, fresh)


def _answer_all(samples, ids, batches, answer, folder, settings, processes, fresh) -> list[Prediction]:
    answers: Answers = open_parts(folder, settings, fresh) if processes.is_first else {}
    is_done = processes.of_first(sorted(answers))
    todo = [number for number in range(len(batches)) if number not in set(is_done)]
    before = len(ids) - sum(len(batches[number]) for number in todo)
    if before and processes.is_first:
        print(f"resume: {before:,} of {count_of(len(ids), 'question')} are already answered", file=sys.stderr)
    writer = PartWriter(folder, processes.rank)
    with tqdm(total=len(ids), initial=before, unit="question", disable=not processes.is_first) as bar:
        new: Answers = {}
        try:
            for number in todo[processes.rank :: processes.count]:
                new[number] = _answer_batch([samples[at] for at in batches[number]], batches[number], ids, answer)
                writer.append(number, new[number])
                count = processes.add(str(folder), len(batches[number]))
                bar.update(count if processes.count == 1 else before + count - bar.n)
            for count in processes.wait_for(str(folder), len(ids) - before):
                bar.update(before + count - bar.n)
            bar.update(len(ids) - bar.n)
        except BaseException:
            bar.close()
            if processes.is_first:
                found = before + sum(map(len, new.values()))
                answered = f"at least {found:,}" if processes.count > 1 else f"{found:,}"
                print(
                    f"stopped early: {folder} holds {answered} of {count_of(len(ids), 'answer')}; the same command "
                    "resumes here",
                    file=sys.stderr,
                )
            raise
        finally:
            writer.close()
    for part in processes.gather(new):
        answers |= part
    if not processes.is_first:
        return []  # only the first process has read the answers of an interrupted command
    return _in_order(answers, batches, ids)


def _answer_batch(
    samples: list[dict[str, Any]], numbers: list[int], ids: Sequence[str], answer: Answer
) -> list[Prediction]:
    """Return the predictions for a batch, with the ids of the questions and their share of the time."""
    start = time.perf_counter()
    predictions = answer(samples)
    seconds = round((time.perf_counter() - start) / len(samples), 4)
    return [
        replace(prediction, id=ids[number], seconds=seconds)
        for number, prediction in zip(numbers, predictions, strict=True)
    ]


def _in_order(answers: Answers, batches: list[list[int]], ids: Sequence[str]) -> list[Prediction]:
    """Return the predictions in the order of the questions. Every question must have exactly one."""
    found: dict[int, Prediction] = {}
    for number, predictions in answers.items():
        found |= dict(zip(batches[number], predictions, strict=True))
    wrong = [number for number in range(len(ids)) if number not in found or found[number].id != ids[number]]
    if wrong:
        raise ValueError(f"{ids[wrong[0]]}: this question has no answer. Add --fresh to answer all questions again.")
    return [found[number] for number in range(len(ids))]
