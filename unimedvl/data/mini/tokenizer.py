"""A small tokenizer of Qwen2's kind, learned from the training texts of UniMed-Mini."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SIZE = 2040  # with the four control tokens under the nano model's 2,048 rows


def write_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Byte-level BPE with Qwen2's rules for words, saved in transformers' layout; the same for the same texts."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    bare = Qwen2Tokenizer(vocab=letters, merges=[])
    bare.train_new_from_iterator(sorted(set(texts)), vocab_size=SIZE, show_progress=False).save_pretrained(folder)
