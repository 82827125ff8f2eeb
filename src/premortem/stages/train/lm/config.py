"""Shape and sizes of the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from premortem.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Shape of a decoder-only transformer with tied embeddings.

    ``width`` is the size of the residual stream, ``ffn_width`` the inner size of the feed-forward layer,
    ``context`` the longest sequence in tokens. Raises ``ConfigError`` naming the field that is wrong.
    """

    vocab_size: int = 257
    context: int = 64
    num_layers: int = 2
    num_heads: int = 4
    width: int = 64
    ffn_width: int = 176
    activation: Literal["swiglu", "gelu"] = "swiglu"
    dropout: float = 0.0
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "num_layers", "num_heads", "width", "ffn_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)} in LanguageModelConfig: expected at least 1")
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"width is {self.width} with num_heads {self.num_heads} in LanguageModelConfig: "
                f"rotary heads need width divisible by {2 * self.num_heads}"
            )
        if self.activation not in ("swiglu", "gelu"):
            raise ConfigError(f"activation is {self.activation!r} in LanguageModelConfig: expected 'swiglu' or 'gelu'")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {self.dropout} in LanguageModelConfig: expected 0 <= dropout < 1")

    @property
    def num_parameters(self) -> int:
        """Trainable numbers, the tied embedding counted once."""
        ffn_matrices = 3 if self.activation == "swiglu" else 2
        layer = 4 * self.width**2 + ffn_matrices * self.width * self.ffn_width + 2 * self.width
        return self.vocab_size * self.width + self.num_layers * layer + self.width


TINY = LanguageModelConfig()
SMALL = LanguageModelConfig(vocab_size=16_384, context=256, num_layers=10, num_heads=6, width=384, ffn_width=1_024)
MEDIUM = LanguageModelConfig(context=512, num_layers=8, num_heads=8, width=512, ffn_width=1_365)
