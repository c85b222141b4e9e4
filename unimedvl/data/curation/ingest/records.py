"""Records of training, to be curated once more: ours, UniMedVL-5M's, LLaVA's, BAGEL's (unimedvl.data.records)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unimedvl.data.curation.ingest.files import files_under, save_once, split_named
from unimedvl.data.curation.ingest.settings import FAMILIES, Reader, ReaderSettings, Skipped
from unimedvl.data.curation.pairs import Pair, pair_id
from unimedvl.data.records import IMAGE_MARK, ImageRef, Record
from unimedvl.data.sources import SUFFIXES, Source
from unimedvl.errors import DataError


def _read(root: Path, settings: ReaderSettings, skipped: Skipped) -> Iterator[Pair]:
    for path in [root] if root.is_file() else files_under(root, SUFFIXES):
        name = path.name if root.is_file() else path.relative_to(root).as_posix()
        source = Source(name, [path])
        for number in range(len(source)):
            place, key = f"{name}, row {number + 1}", pair_id(settings.source, settings.split, name, str(number))
            try:
                record = source.record(number)
                if record.family not in FAMILIES or len(record.outputs) > 1:
                    known = record.family in FAMILIES
                    skipped.add("several images to make" if known else f"family {record.family}", place)
                    continue
                pair = _pair(record, key, source.root(number), path, settings)
            except DataError as error:
                skipped.failed(settings, error, place)
                continue
            yield pair


def _pair(record: Record, name: str, root: Path, path: Path, settings: ReaderSettings) -> Pair:
    said = {speaker: [turn.text for turn in record.turns if turn.speaker == speaker] for speaker in ("human", "gpt")}
    human = next(iter(said["human"] or record.captions), "").replace(IMAGE_MARK, "").strip()
    answer = next(iter(said["gpt"]), "").strip()
    drawn = record.family == "t2i"
    # The caption of text-to-image is its text, unless the model answers with words of its own.
    question, text = ("", human) if drawn and not answer else (human, answer)
    turns = [[turn.speaker, turn.text] for turn in record.turns]
    files = [_file(image, f"{name}-{n}", root, settings) for n, image in enumerate((*record.inputs, *record.outputs))]
    return Pair(
        name,
        settings.source,
        record.family,
        record.subtask,
        settings.modality or record.modality,
        settings.split or split_named(path.parent.name) or split_named(path.stem) or "",
        text,
        question,
        tuple(files[: len(record.inputs)]),
        files[-1] if record.outputs else "",
        settings.license,
        more={"turns": turns} if len(turns) > 2 else {},
    )


def _file(image: ImageRef, name: str, root: Path, settings: ReaderSettings) -> str:
    """The path of an image; one that lies in the row is written out."""
    if image.data is None:
        return str(image.location(root))
    path = settings.out() / f"{name}.png"
    save_once(image.read(root), path)
    return str(path)


read = Reader(_read, "files of records, .jsonl, .json or .parquet", ("images_out",))
