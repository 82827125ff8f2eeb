"""From a corpus to fixed-length windows of token ids, in two data-set styles."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from premortem.core.errors import ConfigError
from premortem.stages.train.text.corpus import Corpus
from premortem.stages.train.text.tokenisers import Tokeniser


def split_by_file(corpus: Corpus, validation_share: float = 0.1) -> tuple[Corpus, Corpus]:
    """Training and validation corpus with no file in both.

    A file's side follows from the hash of its path alone, so it stays there when the corpus grows. The
    share is met on average over files, not exactly. Raises ``ConfigError`` when a side would be empty.
    """
    threshold = int(validation_share * 2**32)
    in_validation = {
        document.file: int.from_bytes(hashlib.sha256(document.file.encode()).digest()[:4], "big") < threshold
        for document in corpus.documents
    }
    training, validation = (
        replace(corpus, documents=tuple(d for d in corpus.documents if in_validation[d.file] is side))
        for side in (False, True)
    )
    if not training.documents or not validation.documents:
        raise ConfigError(
            f"split_by_file of {len(in_validation)} files at validation_share {validation_share} leaves one "
            "side empty: expected files on both; read more bytes or change the share"
        )
    return training, validation


def encode_corpus(corpus: Corpus, tokeniser: Tokeniser) -> Tensor:
    """All documents in order, an end id after each: int64 ids of shape [num_tokens]."""
    ids: list[int] = []
    for document in corpus.documents:
        ids += tokeniser.encode(document.text)
        ids.append(tokeniser.end_id)
    return torch.tensor(ids, dtype=torch.int64)


class Windows(Dataset[Tensor]):
    """Map-style: window i is ``context + 1`` ids from ``i * stride``, of shape [context + 1].

    With the default stride (``context``) every token but the first is predicted once; a rest shorter than a
    window is left out. Raises ``ConfigError`` when there is not one full window.
    """

    def __init__(self, ids: Tensor, context: int, stride: int | None = None) -> None:
        self.ids, self.context, self.stride = ids, context, context if stride is None else stride
        if self.context < 1 or self.stride < 1 or ids.ndim != 1 or len(ids) < context + 1:
            raise ConfigError(
                f"{tuple(ids.shape)} ids, context {context}, stride {self.stride} in Windows: expected both "
                f">= 1 and at least {context + 1} ids in one dimension; read a larger corpus"
            )
        self._num_windows = (len(ids) - self.context - 1) // self.stride + 1

    def __len__(self) -> int:
        """Number of full windows."""
        return self._num_windows

    def __getitem__(self, index: int) -> Tensor:
        """The window as a view; raises ``IndexError`` past the end."""
        if not 0 <= index < self._num_windows:
            raise IndexError(f"window {index} of {self._num_windows}")
        start = index * self.stride
        return self.ids[start : start + self.context + 1]


class WindowStream(IterableDataset[Tensor]):
    """Iterable style: each pass yields the windows in an order drawn from ``seed`` alone, or as they stand.

    The windows are dealt round-robin to the loader's workers, so none is seen twice in a pass. Every pass is
    equal: this is what lets a stream without a position be wound forward.
    """

    def __init__(self, windows: Windows, seed: int | None = None) -> None:
        self.windows, self.seed = windows, seed

    def __iter__(self) -> Iterator[Tensor]:
        """One pass."""
        count = len(self.windows)
        if self.seed is None:
            order = list(range(count))
        else:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed)).tolist()
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in order[first::step]:
            yield self.windows[index]
