"""From rows to samples that a collator takes: rows, asked in words.

`TrainingQuestions` asks the rows of one set, `MixtureQuestions` those of several at their shares, and
`EvaluationQuestions` every question on its own.
"""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import Dataset as TorchDataset

from .rows import check_row, load_image, target_masks
from .templates import Conversation, Phrasing, ask, ask_plainly


class TrainingQuestions(TorchDataset):
    """Rows asked in new words every epoch; sample i of epoch e is a function of (seed, e, i).

    A sample: source (str), image (PIL RGB, or None), conversations (list of `templates.Conversation`) and masks (for each
    conversation (K, H, W) uint8 of 0, 1 and 255 = ignored, in the order of the `{seg}` of its answers; None if it
    asks for no target).
    """

    def __init__(self, rows: Dataset, seed: int, max_questions: int, phrasing: Phrasing | None = None):
        self.rows, self.seed, self.max_questions, self.phrasing = rows, seed, max_questions, phrasing
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it change

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        return training_sample(self.rows[index], generator, self.max_questions, self.phrasing)


@dataclass(frozen=True)
class Part:
    """A set of a mixture: its rows, and its share of the samples (shares count relative to each other)."""

    name: str
    rows: Sized  # a datasets.Dataset; for streams.StreamedQuestions a streams.Stream
    share: float


class MixtureQuestions(TorchDataset):
    """Several sets, each at its share of every epoch; sample i of epoch e is a function of (seed, e, i).

    To be gone through in order: it is shuffled already.

    An epoch has `epoch_length` samples, the same number from a set every time, in an order that (seed, e) fix. A set's
    rows are drawn without replacement until all were, over the borders of epochs; then in another order again. Samples
    are those of `TrainingQuestions`.

    Raises:
        ValueError: an epoch too short to hold one sample of every set.
    """

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
                f"mixture: an epoch of {epoch_length} samples holds none of {', '.join(rare)}; raise epoch_length."
            )
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it change
        self._planned: tuple[int, np.ndarray, np.ndarray] | None = None  # what `_plan` and `_order` gave last
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch = int(self._epoch)
        part, row = self.place(epoch, index)
        generator = np.random.default_rng((self.seed, epoch, index))
        return training_sample(self.parts[part].rows[row], generator, self.max_questions, self.phrasing)

    def describe(self) -> list[str]:
        """Every set's share of an epoch, a line each."""
        lines = [f"a mixture, {len(self):,} samples an epoch:"]
        for part, count in zip(self.parts, self.counts.tolist(), strict=True):
            lines.append(f"  {part.name:24s} {count / len(self):6.1%}, {count:,} samples of {len(part.rows):,} rows")
        return lines

    def place(self, epoch: int, index: int) -> tuple[int, int]:
        """Which part, and which of its rows, sample `index` of an epoch is."""
        parts, draws = self._plan(epoch)
        part = int(parts[index])
        times, at = divmod(int(draws[index]), len(self.parts[part].rows))
        return part, int(self._order(part, times)[at])

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of every sample of an epoch, (N,): its part, and how many draws from that part came before, in all epochs."""
        if self._planned is None or self._planned[0] != epoch:
            parts = np.repeat(np.arange(len(self.parts)), self.counts)
            parts = np.random.default_rng((self.seed, epoch)).permutation(parts)
            draws = np.empty_like(parts)
            for part, count in enumerate(self.counts):
                draws[parts == part] = epoch * count + np.arange(count)
            self._planned = (epoch, parts, draws)
        return self._planned[1:]

    def _order(self, part: int, times: int) -> np.ndarray:
        """The order of a part's rows, (R,), after it was gone through so many times."""
        if self._orders.get(part, (None,))[0] != times:
            generator = np.random.default_rng((self.seed, part, times))
            self._orders[part] = (times, generator.permutation(len(self.parts[part].rows)))
        return self._orders[part][1]


def _apportion(shares: list[float], total: int) -> np.ndarray:
    """Whole numbers (P,) in proportion to the shares that sum to total; what is left goes to the largest remainders."""
    exact = np.asarray(shares) / sum(shares) * total
    counts = np.floor(exact).astype(int)
    largest = np.argsort(counts - exact, kind="stable")
    counts[largest[: total - counts.sum()]] += 1
    return counts


class EvaluationQuestions(TorchDataset):
    """Every question of the rows as a sample of its own, in plain words; samples as above, with their index.

    Args:
        rows: a split.
        with_conversations: also the VQA questions, by their first round.
    """

    def __init__(self, rows: Dataset, with_conversations: bool):
        self.rows = rows
        table = rows.select_columns(["targets", "conversation"]).with_format("arrow")[:]
        counts = _list_lengths(table["targets"])
        if with_conversations:
            counts = counts + (_list_lengths(table["conversation"]) > 0)
        starts = np.cumsum(counts) - counts
        at = np.repeat(np.arange(len(counts)), counts)
        # (row, conversation of that row) of each question, (Q, 2). Not a list of tuples: reading one writes its count
        # of references, and its share of the list becomes a copy
        self.questions = np.stack([at, np.arange(len(at)) - starts[at]], axis=1).astype(np.int32)

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at, conversation = self.questions[index].tolist()
        row = self.rows[at]
        return {**_sample(row, [ask_plainly(row)[conversation]]), "index": index}


def _list_lengths(column: pyarrow.ChunkedArray) -> np.ndarray:
    """The length of the list in each row, (R,) int64; 0 where there is none."""
    return pyarrow.compute.list_value_length(column).fill_null(0).to_numpy().astype(np.int64)


def training_sample(
    row: dict[str, Any], generator: np.random.Generator, max_questions: int, phrasing: Phrasing | None
) -> dict[str, Any]:
    """A row asked in the words that the generator draws."""
    return _sample(row, ask(row, generator, max_questions, phrasing))


def _sample(row: dict[str, Any], conversations: list) -> dict[str, Any]:
    check_row(row)
    image = load_image(row["image"], row["source"])
    if image is None and any(conversation.targets for conversation in conversations):
        raise ValueError(f"{row['source']}: a row without an image has targets; give it its image or only a dialogue.")
    masks = [_masks_of(conversation, image, row["source"]) for conversation in conversations]
    return {"source": row["source"], "image": image, "conversations": conversations, "masks": masks}


def _masks_of(conversation: Conversation, image: Image.Image | None, source: str) -> np.ndarray | None:
    """The masks of all targets of a conversation, (K, H, W); None where it asks for none."""
    if not conversation.targets:
        return None
    size = (image.height, image.width)
    return np.concatenate([target_masks(target, size, source) for target in conversation.targets])
