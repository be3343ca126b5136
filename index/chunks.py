"""Long documents become passages: one that fits stays as it is, another is cut, and its pieces are "doc#1", "doc#2", ...

The same document always gives the same passages with the same ids, whatever else is in the corpus. A piece says in its metadata
which document it is from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, ModelUnusable
from .passage import Passage
from .splitter import cut

DOCUMENT = "document"
"""Name of the metadata field that names the document of a piece."""

_WORD = re.compile(r"\S+")

Cut = Callable[[str], "list[tuple[int, str]]"]
"""A text to its pieces, each with the position of its first character."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """Passages of at most `tokens` tokens of text, of which the first `overlap` or fewer were at the end of the one before.
    0 = documents of plain text are cut by words, rows stay as they are."""

    tokens: int = 0
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.overlap < 0:
            raise ConfigurationError("passages are cut by a number of tokens from 1, and overlap by one from 0")
        if self.overlap and self.overlap >= self.tokens:
            raise ConfigurationError(
                f"an overlap of {self.overlap} tokens leaves nothing new in passages of {self.tokens}: it must be less"
            )


def cut_by_words(text: str) -> list[tuple[int, str]]:
    """Pieces of 100 to 150 words, where paragraphs end."""
    starts = [word.start() for word in _WORD.finditer(text)]
    pieces, before = [], 0
    for piece in cut(text):
        pieces.append((starts[before], piece))
        before += len(piece.split())
    return pieces


def cut_by_tokens(chunking: Chunking, model_folder: str, max_length: int) -> Cut:
    """Pieces by the tokens of a model that reads `max_length` of them.

    By `semantic_text_splitter`: the largest of paragraphs, sentences, words that fit. Raises `ModelUnusable` where the model has
    no tokenizer to count with, `ConfigurationError` where the splitter is not installed or the model could not read so much.
    """
    if chunking.tokens > max_length:
        raise ConfigurationError(
            f"passages of {chunking.tokens} tokens would lose their ends: the model reads {max_length}, title and prefix included"
        )
    try:
        from semantic_text_splitter import TextSplitter
    except ImportError:
        raise ConfigurationError(
            "cutting by tokens needs the package semantic-text-splitter: pip install 'ragpool[chunk]'"
        ) from None
    splitter = TextSplitter.from_huggingface_tokenizer(_tokenizer(model_folder), chunking.tokens, chunking.overlap)
    return splitter.chunk_indices


def pieces_of(document: Passage, cut: Cut) -> Iterator[tuple[int, Passage]]:
    """(position of its first character, passage) of each piece. A document of one piece is that passage, with its own id."""
    pieces = cut(document.text) or [(0, document.text)]
    if len(pieces) == 1:
        yield pieces[0][0], replace(document, text=pieces[0][1])
        return
    metadata = {**document.metadata, DOCUMENT: document.id}
    for number, (start, text) in enumerate(pieces, start=1):
        yield start, replace(document, id=f"{document.id}#{number}", text=text, metadata=metadata)


def document_of(passage_id: str, metadata: Mapping[str, object]) -> str:
    """The id of the document that a passage is a piece of; its own where it is none."""
    document = metadata.get(DOCUMENT)
    if isinstance(document, str) and passage_id.startswith(f"{document}#") and passage_id[len(document) + 1 :].isdecimal():
        return document
    return passage_id


def _tokenizer(model_folder: str) -> Any:
    found = sorted(Path(model_folder).rglob("tokenizer.json"), key=lambda path: (len(path.parts), path))
    if not found:
        raise ModelUnusable(f"the model folder {model_folder} has no tokenizer.json to count tokens with")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(found[0]))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
