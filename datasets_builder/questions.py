"""PyTorch datasets that turn rows into samples for the collator: image, questions, answers and masks.

- `TrainingQuestions`: the rows of one data set.
- `MixtureQuestions`: the rows of several data sets, mixed according to their shares.
- `EvaluationQuestions`: one question per sample.
"""

from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from gemma_lisa.lazy_images_gemma_lisa import LazyImage
from gemma_lisa.safety.short_text import count_of

from .mixture import Part
from .rows import CachedImage, check_row, lazy_image, target_masks
from .templates import Conversation, Phrasing, ask, ask_plainly, place_questions


class Finder(Protocol):
    """Finds images whose pixels are not needed, such as `feature_cache.cache.FeatureCache`."""

    def find(self, image: Any, source: str) -> CachedImage | None:
        """Return the image of a row without decoding it, or None if its pixels are needed."""


class TrainingQuestions(TorchDataset):
    """Training samples from the rows of one data set, with new phrasings in each epoch.

    Sample i of epoch e depends only on (seed, e, i). A sample is a dict:

        source (str): where the row is from.
        image (`LazyImage` or None): the image, decoded when needed; a `rows.CachedImage` if `cache` finds it.
        conversations (list of `templates.Conversation`): questions and answers.
        masks (list of (K, H, W) uint8 or None): one entry per conversation. 0 is background, 1 is the target, 255 is
            ignored. Masks are in the order of the `{seg}` in the answers. None if the conversation has no target.

    Args:
        rows: rows with `rows.ROW_FEATURES`.
        seed: seed of the phrasings.
        max_questions: maximum number of targets asked for per row.
        phrasing: languages and conversations; English without conversations if None.

    Attributes:
        cache: finds images whose features are cached; None to decode all images.
    """

    cache: Finder | None = None

    def __init__(self, rows: Dataset, seed: int, max_questions: int, phrasing: Phrasing | None = None):
        self.rows, self.seed, self.max_questions, self.phrasing = rows, seed, max_questions, phrasing
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it change

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        return training_sample(self.rows[index], generator, self.max_questions, self.phrasing, self.cache)

    def rows_of_epochs(self, epochs: int) -> list[tuple[Dataset, np.ndarray]]:
        """Return the data sets with the indices of the rows that are read in the first epochs."""
        return [(self.rows, np.arange(len(self.rows)))]


class MixtureQuestions(TorchDataset):
    """Training samples from several data sets, mixed according to their shares.

    Sample i of epoch e depends only on (seed, e, i). Samples have the same fields as those of `TrainingQuestions`.
    They are already shuffled, so read them in order.

    Each epoch has `epoch_length` samples, and the same number from each data set. Rows of a data set are drawn without
    replacement, also across epochs. After all of its rows were drawn, they are drawn again in a new order.

    Args:
        parts: the data sets and their shares.
        seed: seed of the order of rows and of the phrasings.
        max_questions: maximum number of targets asked for per row.
        epoch_length: number of samples per epoch.
        phrasing: languages and conversations; English without conversations if None.

    Raises:
        ValueError: the epoch is too short for one sample of each data set.

    Attributes:
        cache: as in `TrainingQuestions`.
    """

    cache: Finder | None = None

    def __init__(
        self,
        parts: list[Part],
        seed: int,
        max_questions: int,
        epoch_length: int,
        phrasing: Phrasing | None = None,
    ):
        self.parts, self.seed, self.max_questions, self.phrasing = parts, seed, max_questions, phrasing
        self.counts = _apportion([part.share for part in parts], epoch_length)
        if rare := [part.name for part, count in zip(parts, self.counts, strict=True) if not count]:
            raise ValueError(
                f"mixture: epoch_length {epoch_length} is too small: an epoch would have no samples of "
                f"{', '.join(rare)}; increase epoch_length or the weights of these data sets."
            )
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it change
        self._planned: tuple[int, np.ndarray, np.ndarray] | None = None  # (epoch, *last result of `_plan`)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # part: (passes, last result of `_order`)

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch = int(self._epoch)
        part, row = self.place(epoch, index)
        generator = np.random.default_rng((self.seed, epoch, index))
        return training_sample(self.parts[part].rows[row], generator, self.max_questions, self.phrasing, self.cache)

    def rows_of_epochs(self, epochs: int) -> list[tuple[Dataset, np.ndarray]]:
        """Return the data sets with the indices of the rows that are read in the first epochs."""
        reads = []
        for number, (part, count) in enumerate(zip(self.parts, self.counts.tolist(), strict=True)):
            first = self._order(number, 0)[: epochs * count]  # all of them, if the data set is read again
            reads.append((part.rows, np.sort(first)))
        return reads

    def describe(self) -> list[str]:
        """Return lines of text with the share of each data set."""
        lines = [f"mixture, {count_of(len(self), 'sample')} per epoch:"]
        for part, count in zip(self.parts, self.counts.tolist(), strict=True):
            size = f"{count_of(count, 'sample')} of {count_of(len(part.rows), 'row')}"
            lines.append(f"  {part.name:24s} {count / len(self):6.1%}, {size}")
        return lines

    def place(self, epoch: int, index: int) -> tuple[int, int]:
        """Return the indices of the part and of its row for sample `index` of an epoch."""
        parts, draws = self._plan(epoch)
        part = int(parts[index])
        passes, position = divmod(int(draws[index]), len(self.parts[part].rows))
        return part, int(self._order(part, passes)[position])

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return for each sample of an epoch its part, (N,), and the number of earlier draws from that part, (N,)."""
        if self._planned is None or self._planned[0] != epoch:
            parts = np.repeat(np.arange(len(self.parts)), self.counts)
            parts = np.random.default_rng((self.seed, epoch)).permutation(parts)
            draws = np.empty_like(parts)
            for part, count in enumerate(self.counts):
                draws[parts == part] = epoch * count + np.arange(count)
            self._planned = (epoch, parts, draws)
        return self._planned[1:]

    def _order(self, part: int, passes: int) -> np.ndarray:
        """Return the order of a part's rows, (R,), after this many complete passes."""
        if self._orders.get(part, (None,))[0] != passes:
            generator = np.random.default_rng((self.seed, part, passes))
            self._orders[part] = (passes, generator.permutation(len(self.parts[part].rows)))
        return self._orders[part][1]


def _apportion(shares: list[float], total: int) -> np.ndarray:
    """Return integers (P,) that are proportional to the shares and sum to total (largest remainder method)."""
    exact = np.asarray(shares) / sum(shares) * total
    counts = np.floor(exact).astype(int)
    largest = np.argsort(counts - exact, kind="stable")
    counts[largest[: total - counts.sum()]] += 1
    return counts


class EvaluationQuestions(TorchDataset):
    """Evaluation samples: one per question, with the plain phrasing.

    Samples have the same fields as those of `TrainingQuestions`, and `index`.

    Args:
        rows: rows with `rows.ROW_FEATURES`.
        with_conversations: whether to include the conversations of VQA rows. Each turn is a question.

    Attributes:
        cache: as in `TrainingQuestions`.
    """

    cache: Finder | None = None

    def __init__(self, rows: Dataset, with_conversations: bool):
        self.rows = rows
        # (row, conversation of that row) of each question, (Q, 2). Not a list of tuples: reading one changes its
        # reference count, and then each worker process copies its memory page
        self.questions = place_questions(rows, with_conversations)

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at, conversation = self.questions[index].tolist()
        row = self.rows[at]
        return {**_sample(row, [ask_plainly(row)[conversation]], self.cache), "index": index}

    def rows_of_epochs(self, epochs: int) -> list[tuple[Dataset, np.ndarray]]:
        """Return the data set with the indices of the rows that have a question."""
        return [(self.rows, np.unique(self.questions[:, 0]))]


def training_sample(
    row: dict[str, Any],
    generator: np.random.Generator,
    max_questions: int,
    phrasing: Phrasing | None,
    cache: Finder | None = None,
) -> dict[str, Any]:
    """Return the sample of a row, with phrasings drawn by the generator."""
    return _sample(row, ask(row, generator, max_questions, phrasing), cache)


def _sample(row: dict[str, Any], conversations: list, cache: Finder | None) -> dict[str, Any]:
    check_row(row)
    image = None if cache is None else cache.find(row["image"], row["source"])
    if image is None:
        image = lazy_image(row["image"], row["source"])
    if image is None and any(conversation.targets for conversation in conversations):
        raise ValueError(f"{row['source']}: a row without an image cannot have targets; add the image or remove them.")
    masks = [_masks_of(conversation, image, row["source"]) for conversation in conversations]
    return {"source": row["source"], "image": image, "conversations": conversations, "masks": masks}


def _masks_of(conversation: Conversation, image: LazyImage | CachedImage | None, source: str) -> np.ndarray | None:
    """Return the masks of all targets of a conversation, (K, H, W), or None if it has no targets."""
    if not conversation.targets:
        return None
    size = (image.height, image.width)
    return np.concatenate([target_masks(target, size, source) for target in conversation.targets])
