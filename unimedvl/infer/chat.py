"""A conversation in the terminal. The context stays in the cache: every turn adds only what is new."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from unimedvl import NOTICE
from unimedvl.errors import DataError, UniMedVLError
from unimedvl.imaging import ReadOptions, read_image
from unimedvl.infer.decoding import decode, join
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.session import Session
from unimedvl.infer.tasks import InferSettings
from unimedvl.types import Segment

HELP = """/image PATH   show an image to the model (PNG, JPEG, DICOM, NIfTI)
/undo         take the last turn back
/reset        start over
/help         this text
/quit         leave (or Ctrl-D; Ctrl-C stops an answer)
Anything else is a question."""


class Conversation:
    """The state of a chat: one session, and the places to which turns can be undone."""

    def __init__(self, pipe: UniMedVLPipeline, settings: InferSettings, reading: ReadOptions) -> None:
        self.pipe, self.settings, self.reading = pipe, settings, reading
        limit = pipe.engine.model.config.llm.max_position_embeddings
        self.cache = pipe.engine.cache(limit)
        self.session = Session(self.cache.open(limit))
        self.start = self.session.mark()
        self.turns = [self.start]

    def show(self, path: str) -> str:
        """Append an image; what was done to its pixels."""
        read = read_image(path, self.reading)
        self._append([self.pipe.processor.to_understand(read.image)])
        return f"{read.source}: {read.image.width} x {read.image.height}{''.join(f', {s}' for s in read.steps)}"

    def ask(self, question: str, on_text: Callable[[str], None]) -> str:
        """Append a question and its answer, which is handed on as it grows."""
        self._append([self.pipe.processor.text(question)])
        engine, codec = self.pipe.engine, self.pipe.processor.codec
        options = self.settings.text
        if options.max_new_tokens + 2 > self.session.row.room:
            self.undo()
            raise DataError("the conversation has reached the context limit", remedy="/reset to start over")
        answers = decode(engine, codec, [self.session], [options], on_text=lambda _, piece: on_text(piece))
        join(engine, codec, [self.session], answers)
        return answers[0].text

    def undo(self) -> None:
        """Take the last turn back, an image or a question with its answer."""
        if self.turns[1:]:
            self.session.truncate(self.turns.pop())

    def reset(self) -> None:
        """Forget everything."""
        self.session.truncate(self.start)
        self.turns = [self.start]

    def _append(self, segments: list[Segment]) -> None:
        mark = self.session.mark()
        self.pipe.engine.append([self.session], [segments])
        self.turns.append(mark)


def chat(pipe: UniMedVLPipeline, settings: InferSettings, reading: ReadOptions) -> None:
    """Read lines until the end of input or ``/quit``; a bad line is answered by its error, and the chat goes on."""
    conversation = Conversation(pipe, settings, reading)
    prompt = "> " if sys.stdin.isatty() else ""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    print(f"{NOTICE} /help lists the commands.", file=sys.stderr)
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line == "/quit":
            return
        turns = len(conversation.turns)
        try:
            _answer(conversation, line)
        except UniMedVLError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            if len(conversation.turns) > turns:
                conversation.undo()
            print("\nstopped; the turn was taken back", file=sys.stderr)


def _answer(conversation: Conversation, line: str) -> None:
    command, _, rest = line.partition(" ")
    if command == "/image":
        path = rest.strip().strip("'\"")
        if not path:
            raise DataError("/image needs a path", remedy="write /image PATH")
        print(conversation.show(path), file=sys.stderr)
    elif command == "/undo":
        conversation.undo()
    elif command == "/reset":
        conversation.reset()
    elif command == "/help":
        print(HELP, file=sys.stderr)
    elif command.startswith("/"):
        raise DataError(f"no command is called {command}", remedy="/help lists them")
    elif line:
        conversation.ask(line, lambda piece: print(piece, end="", flush=True))
        print()
