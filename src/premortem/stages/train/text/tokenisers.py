"""Text to token ids and back: raw bytes, or byte-level BPE trained on the spot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from premortem.core.errors import ConfigError

_END = "<|end|>"


class Tokeniser(Protocol):
    """Lossless for every text; ids are below ``vocab_size``, and ``end_id`` never comes from a text."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, the end mark included."""
        ...

    @property
    def end_id(self) -> int:
        """The id put after each document."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without an end mark."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text again; end marks are dropped, broken UTF-8 becomes U+FFFD."""
        ...


class ByteTokeniser:
    """One id per UTF-8 byte, and 256 for the end of a document."""

    vocab_size = 257
    end_id = 256

    def encode(self, text: str) -> list[int]:
        """Ids 0 to 255."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text again."""
        return bytes(i for i in ids if i != self.end_id).decode(errors="replace")


class BpeTokeniser:
    """Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909; byte level as in GPT-2)."""

    def __init__(self, json: str) -> None:
        self._tokenizer = Tokenizer.from_str(json)
        # Text that spells the end mark must stay text; otherwise a document could forge an end.
        self._tokenizer.encode_special_tokens = True
        end_id = self._tokenizer.token_to_id(_END)
        if end_id is None:
            raise ConfigError(f"tokeniser JSON has no token {_END!r}: expected one written by BpeTokeniser.to_json")
        self._end_id: int = end_id

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BpeTokeniser:
        """Learn merges from ``texts``; equal texts give equal merges. Raises ``ConfigError`` below 257 ids.

        Fewer than ``vocab_size`` ids result when the texts offer no more pairs.
        """
        if vocab_size < 257:
            raise ConfigError(f"vocab_size is {vocab_size} in BpeTokeniser.train: 256 bytes and the end need >= 257")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[_END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    @property
    def vocab_size(self) -> int:
        """Number of ids, the end mark included."""
        size: int = self._tokenizer.get_vocab_size()
        return size

    @property
    def end_id(self) -> int:
        """The id put after each document."""
        return self._end_id

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text again."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def to_json(self) -> str:
        """Everything, in the format of the tokenizers library; the constructor reads it."""
        json: str = self._tokenizer.to_str()
        return json
