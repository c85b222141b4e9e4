"""OmniMedVQA: multiple-choice questions from 73 data sets (Hu et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unimedvl.eval.readers.choices import by_text, chosen, options_of
from unimedvl.eval.readers.images import image_file
from unimedvl.eval.readers.layout import collected, known_split, located
from unimedvl.eval.readers.tables import Entry, read_entries
from unimedvl.eval.rows import Row

_FOLDERS = {"test": "Open-access", "open-access": "Open-access", "restricted-access": "Restricted-access", "all": "*"}
_OPTIONS = ("option_A", "option_B", "option_C", "option_D")


def read(path: Path, split: str = "test") -> list[Row]:
    """The rows of a part; ``kind`` is ``question_type``.

    Args:
        path: folder with ``QA_information`` and ``Images``, or one of the JSON files, which is taken whole.
        split: the benchmark has one, ``test``, with the images that it brings along, which is the same as
            ``open-access``. The images of ``restricted-access`` must be put below ``Images`` by hand; ``all`` are both.

    Raises:
        DataError: a file or row is absent or cannot be used.
    """
    (name,) = known_split(split, *_FOLDERS)
    files = located(path, [f"QA_information/{_FOLDERS[name]}/*.json", f"{_FOLDERS[name]}/*.json"])
    return collected((row for file in files for row in _rows(file)), path)


def _rows(file: Path) -> Iterator[Row]:
    # Paths of images start with "Images", beside QA_information.
    root = next((folder for folder in file.parents if (folder / "Images").is_dir()), file.parent)
    return (_row(entry, root) for entry in read_entries(file))


def _row(entry: Entry, root: Path) -> Row:
    entry.present(_OPTIONS[0])
    options = options_of([entry.optional(column) for column in _OPTIONS], entry)
    if not options:
        raise entry.fault("a question without options")
    return Row(
        f"omnimedvqa-{entry.text('question_id')}",
        "vqa",
        entry.text("question_type"),
        entry.optional("modality_type"),
        entry.text("question"),
        (chosen(entry.text("gt_answer"), options, entry, (by_text,)),),
        options,
        closed=True,
        images=(image_file(entry.text("image_path"), root, entry),),
        root=root,
    )
