"""A chat with a trained model: commands, streamed answers, a transcript. Knows no terminal."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mypt_dist.chat import AnyTemplate, Renderer, Template
from mypt_dist.chat.answer import Answer, closing_ids, read_answer
from mypt_dist.chat.session import Exchange, Session
from mypt_dist.chat.transcript import Redact, transcript
from mypt_dist.config.problems import near_miss
from mypt_dist.data.durable import replace
from mypt_dist.errors import ConfigError
from mypt_dist.generation import SamplingConfig, sampling_from, stream_ids
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.redact import scrub
from mypt_dist.tokenizers import StreamDecoder, Tokenizer

ROOM_FOR_ANSWERS = 4
"""An answer has at least this part of the context, if it may be so long: a history that fills it helps nobody."""

HELP = """\
/help                      this
/system TEXT               begin anew with this system text
/context FILE              give the next question this document (again: another one)
/preset NAME [KEY=VALUE]   sampling: chat, creative, factual, code, deterministic; temperature=0.5 max_new_tokens=64 ...
/retry                     answer the last question anew
/undo                      take the last question and its answer back
/correct TEXT              the last answer should have been this: the transcript has it so
/save FILE                 write the conversation, as a line of JSON, behind what FILE holds
/reset                     begin anew
/quit                      end
A line that begins with // is a question that begins with /."""

Say = Callable[[str], None]
"""Shows a piece of text, without a line break of its own."""


class Transcripts:
    """The conversations of one session in a file of its own, a line each, whole after every answer."""

    def __init__(self, folder: Path, about: Mapping[str, Any], redact: Sequence[Redact] = ()) -> None:
        """Raises `ConfigError` where ``folder`` cannot be written. ``about``: what every line says besides."""
        self.path = folder / f"chat-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        self._about, self._redact = about, redact
        self._done: list[str] = []
        self._current: str | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--log {folder} cannot be written: {error.strerror}") from None

    def keep(self, session: Session) -> None:
        """Write the conversation so far: it replaces what was written of it before."""
        self._current = line_of(session, self._about, self._redact)
        self._write()

    def next(self) -> None:
        """The conversation is over."""
        if self._current is not None:
            self._done.append(self._current)
        self._current = None

    def _write(self) -> None:
        lines = [*self._done, *([self._current] if self._current is not None else [])]
        try:
            replace(self.path, "".join(lines).encode())
        except OSError as error:
            raise ConfigError(f"the transcript {self.path} cannot be written: {error.strerror}") from None


def line_of(session: Session, about: Mapping[str, Any], redact: Sequence[Redact]) -> str:
    """A conversation in MyPT's format on one line."""
    return json.dumps({**transcript(session, redact), "about": dict(about)}, ensure_ascii=False) + "\n"


def redactions(patterns: Sequence[str]) -> tuple[Redact, ...]:
    """Secrets of this process, and what matches one of ``patterns``. Raises `ConfigError` for what is no pattern."""
    hooks: list[Redact] = [scrub]
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"--redact {pattern!r} is no regular expression: {error}") from None
        hooks.append(lambda text, compiled=compiled: compiled.sub("[redacted]", text))  # type: ignore[misc]  # bound now
    return tuple(hooks)


@dataclass
class Chat:
    """A model in conversation. `hear` takes what a person typed."""

    model: CausalLM
    session: Session
    sampling: SamplingConfig
    say: Say
    note: Say = field(default=lambda text: None)
    """Shows what is not said by the model: a line."""
    log: Transcripts | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    redact: Sequence[Redact] = ()
    _drawn: int = 0

    def hear(self, line: str) -> bool:
        """A question or a command; False if it was the last.

        Raises `ConfigError` for what cannot be done; the conversation is then as it was.
        """
        if line.startswith("/") and not line.startswith("//"):
            return self._obey(line)
        if line.strip():
            attached = list(self.session.attached)
            self.session.ask(line[1:] if line.startswith("//") else line)
            self._answer(attached)
        return True

    def _obey(self, line: str) -> bool:
        name, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: self.note(HELP),
            "system": self._system,
            "context": self._context,
            "preset": self._preset,
            "retry": self._retry,
            "undo": self._undo,
            "correct": self._correct,
            "save": self._save,
            "reset": self._reset,
        }
        if name == "quit":
            return False
        if name not in commands:
            raise ConfigError(f"there is no command /{name}{near_miss(name, [*commands, 'quit'])} (/help lists them)")
        commands[name](rest.strip())
        return True

    def _answer(self, attached: Sequence[str] = ()) -> None:
        """Ask the model for an answer to the newest question, and take the question back if it cannot be asked."""
        context = self.model.context
        reserved = min(self.sampling.max_new_tokens, max(1, context // ROOM_FOR_ANSWERS))
        try:
            prompt = self.session.prompt(context - reserved)
        except Exception:
            self.session.undo()
            self.session.attached.extend(attached)
            raise
        if prompt.forgotten:
            self.note(f"(the first {prompt.forgotten} exchanges are forgotten: the context is full)")
        most = min(self.sampling.max_new_tokens, context - len(prompt.ids))
        seed = self.sampling.seed + self._drawn
        self._drawn += 1
        # The end of the answer is for us to see.
        sampling = self.sampling.model_copy(update={"max_new_tokens": most, "stop": (), "seed": seed})
        answer = self._stream(prompt.ids.tolist(), sampling)
        self.session.answered(answer)
        if not answer.complete:
            self.note(f"(cut after {most} tokens)")
        elif not answer.well_formed:
            self.note("(not well-formed)")
        self._keep()

    def _stream(self, ids: list[int], sampling: SamplingConfig) -> Answer:
        tokenizer, ends = self.session.renderer.tokenizer, closing_ids(self.session.renderer)
        decoder, said = StreamDecoder(tokenizer), list[int]()
        stream = stream_ids(self.model, [ids], sampling, vocab_size=tokenizer.vocab_size)
        try:
            with closing(stream):  # type: ignore[type-var]  # it is a generator
                for token in _first_row(stream):
                    said.append(token)
                    if token in ends:
                        break
                    self.say(decoder.feed([token]))
        except KeyboardInterrupt:
            self.note("\n(interrupted)")
        self.say(decoder.finish() + "\n")
        return read_answer(said, self.session.renderer)

    def _keep(self) -> None:
        if self.log is not None:
            self.log.keep(self.session)

    def _system(self, text: str) -> None:
        self._reset("")
        self.session.system = text or None

    def _context(self, name: str) -> None:
        if not name:
            raise ConfigError("/context needs a file")
        self.session.attached.append(document(Path(name)))
        self.note(f"(the next question comes with {len(self.session.attached)} documents)")

    def _preset(self, text: str) -> None:
        name, *settings = text.split()
        pairs = [setting.partition("=") for setting in settings]
        if not all(sep for _, sep, _ in pairs):
            raise ConfigError("/preset is written NAME KEY=VALUE ...")
        kept = {"max_new_tokens": self.sampling.max_new_tokens, "seed": self.sampling.seed}
        self.sampling = sampling_from(name, {**kept, **{key: value for key, _, value in pairs}})

    def _retry(self, _: str) -> None:
        if not self.session.exchanges:
            raise ConfigError("nothing was asked yet")
        self._answer()

    def _undo(self, _: str) -> None:
        taken: Exchange = self.session.undo()
        self._keep()
        self.note(f"(taken back: {taken.question})")

    def _correct(self, text: str) -> None:
        if not self.session.exchanges or not text:
            raise ConfigError("/correct needs the text that the last answer should have been")
        renderer = self.session.renderer
        end = renderer.template.turns["assistant"].close[0].token
        assert end is not None, "a template's turns are closed by control tokens"
        ids = [*renderer.tokenizer.encode(text).tolist(), renderer.tokenizer.specials[end]]
        self.session.answered(read_answer(ids, renderer))
        self._keep()

    def _save(self, name: str) -> None:
        if not name:
            raise ConfigError("/save needs a file")
        path = Path(name)
        try:
            before = path.read_bytes() if path.exists() else b""
            replace(path, before + line_of(self.session, self.about, self.redact).encode())
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
        self.note(f"(saved to {path})")

    def _reset(self, _: str) -> None:
        self.session.reset()
        if self.log is not None:
            self.log.next()


def document(path: Path) -> str:
    """The text of a file. Raises `ConfigError`."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"the document {path} cannot be read: {reason}") from None


def renderer_for(tokenizer: Tokenizer, learned: AnyTemplate, chosen: str | None = None) -> Renderer:
    """Of the template that a model ``learned``, unless another is ``chosen`` by name or file.

    Raises `ConfigError` where the tokenizer lacks its control tokens, and for Jinja of another program.
    """
    template = learned if chosen is None else Template.read(chosen)
    if not isinstance(template, Template):
        raise ConfigError(
            f"the model learned the chat template {template.name!r} of another program, which cannot be read back "
            "here: talk to its export (mypt ckpt export), or give --template"
        )
    return Renderer(tokenizer, template)


def _first_row(stream: Iterator[Mapping[int, int]]) -> Iterator[int]:
    for step in stream:
        yield step[0]
