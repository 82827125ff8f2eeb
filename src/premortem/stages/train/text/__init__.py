"""Text for language models: the Python standard library as corpus, tokenisers, fixed-length windows."""

from premortem.stages.train.text.batches import Windows, WindowStream, encode_corpus, split_by_file
from premortem.stages.train.text.corpus import Corpus, Document, Unreadable, read_standard_library
from premortem.stages.train.text.tokenisers import BpeTokeniser, ByteTokeniser, Tokeniser

__all__ = [
    "BpeTokeniser",
    "ByteTokeniser",
    "Corpus",
    "Document",
    "Tokeniser",
    "Unreadable",
    "WindowStream",
    "Windows",
    "encode_corpus",
    "read_standard_library",
    "split_by_file",
]
