"""Commands of a chat, with a model that says what it is told to."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mypt_dist.chat import Renderer, read_conversation
from mypt_dist.chat.session import Session
from mypt_dist.errors import ConfigError
from mypt_dist.generation import SamplingConfig
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.run import chat
from mypt_dist.run.chat import Chat, Transcripts, redactions
from mypt_dist.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()


class Talk:
    """A chat and what was seen of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, context: int = 128) -> None:
        self.prompts: list[str] = []
        self.samplings: list[SamplingConfig] = []
        self.answers: list[str] = []
        self.said, self.noted = list[str](), list[str]()
        monkeypatch.setattr(chat, "stream_ids", self._stream)
        model = GPTConfig.tiny(TOKENIZER.vocab_size).model_copy(update={"context": context}).build()
        log = Transcripts(folder / "log", {"model": "here"}, redactions(["[0-9]{4}"]))
        sampling = SamplingConfig(max_new_tokens=24, seed=5)
        session = Session(Renderer(TOKENIZER))
        self.chat = Chat(model, session, sampling, self.said.append, self.noted.append, log)

    def hear(self, *lines: str) -> bool:
        return [self.chat.hear(line) for line in lines][-1]

    def written(self) -> list[dict[str, Any]]:
        assert self.chat.log is not None
        return [json.loads(line) for line in self.chat.log.path.read_text().splitlines()]

    def _stream(
        self, model: Any, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, vocab_size: int
    ) -> Iterator[dict[int, int]]:
        self.prompts.append(TOKENIZER.decode(prompts[0]))
        self.samplings.append(sampling)
        answer = self.answers.pop(0) if self.answers else "Yes."
        ids = [*TOKENIZER.encode(answer).tolist(), *[TOKENIZER.specials["<|/assistant|>"]] * (not answer.endswith("…"))]
        for token in ids[: sampling.max_new_tokens]:
            yield {0: int(token)}


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Talk:
    return Talk(monkeypatch, tmp_path)


def test_the_model_is_asked_with_all_that_was_said_and_its_answer_is_shown_without_tags(talk: Talk) -> None:
    talk.hear("Hi <|system|>", "Sure?")
    assert talk.prompts[1] == (
        "<|user|>Hi <|system|><|/user|><|endofturn|><|assistant|>Yes.<|/assistant|><|endofturn|>"
        "<|user|>Sure?<|/user|><|endofturn|><|assistant|>"
    )
    assert "".join(talk.said) == "Yes.\nYes.\n"


def test_every_answer_draws_anew_and_none_reaches_beyond_the_context(talk: Talk) -> None:
    talk.hear("one", "two")
    assert [sampling.seed for sampling in talk.samplings] == [5, 6]
    assert all(len(TOKENIZER.encode(p)) and s.stop == () for p, s in zip(talk.prompts, talk.samplings, strict=True))
    # 32 tokens are reserved for answers at least, 24 are wanted.
    talk.hear("x" * 95)
    assert talk.samplings[-1].max_new_tokens == 24
    assert "(the first 2 exchanges are forgotten: the context is full)" in talk.noted


def test_what_does_not_fit_is_refused_and_was_never_asked(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "doc.txt").write_text("long " * 40)
    talk.hear("before", f"/context {tmp_path / 'doc.txt'}")
    with pytest.raises(ConfigError, match="shorten them"):
        talk.hear("What does it say?")
    assert len(talk.chat.session.exchanges) == 1
    assert talk.chat.session.attached == ["long " * 39 + "long"], "the document still waits for a question"


def test_documents_belong_to_one_question(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Doc A\n")
    (tmp_path / "b.txt").write_text("Doc B\n")
    talk.hear(f"/context {tmp_path / 'a.txt'}", f"/context {tmp_path / 'b.txt'}", "q1", "q2")
    assert talk.prompts[0].startswith("<|context|>Doc A\n\nDoc B<|/context|><|user|>q1<|/user|>")
    assert talk.prompts[1].endswith("<|endofturn|><|user|>q2<|/user|><|endofturn|><|assistant|>")
    assert talk.written()[0]["messages"][0] == {"role": "user", "content": "q1", "context": "Doc A\n\nDoc B"}


def test_commands_change_what_comes_next(talk: Talk) -> None:
    talk.answers = ["first", "again", "third"]
    talk.hear("q", "/retry")
    assert [e.answer.text for e in talk.chat.session.exchanges if e.answer] == ["again"]
    talk.hear("/correct better", "next?")
    assert "<|assistant|>better<|/assistant|>" in talk.prompts[-1]
    talk.hear("/undo")
    assert [exchange.question for exchange in talk.chat.session.exchanges] == ["q"]
    talk.hear("/system Be brief.", "/preset factual max_new_tokens=3", "anew")
    assert talk.prompts[-1].startswith("<|system|>Be brief.<|/system|><|user|>anew")
    assert (talk.samplings[-1].temperature, talk.samplings[-1].max_new_tokens) == (0.3, 3)
    assert talk.hear("//slash")
    assert "<|user|>/slash<|/user|>" in talk.prompts[-1]
    assert not talk.hear("/quit")


def test_transcripts_hold_every_conversation_redacted_and_can_be_read_back(talk: Talk) -> None:
    talk.answers = ["My number is 4711.", "never ends…"]
    talk.hear("number 1234?", "/reset", "go", "/undo", "go on")
    first, second = talk.written()
    assert first["messages"] == [
        {"role": "user", "content": "number [redacted]?"},
        {"role": "assistant", "content": "My number is [redacted]."},
    ]
    assert second["messages"][0]["content"] == "go on", "what was taken back is not kept"
    assert first["about"] == {"model": "here"}
    for line in (first, second):
        read_conversation(line)


def test_an_answer_that_was_cut_is_kept_and_not_learned(talk: Talk) -> None:
    talk.answers = ["never ends…"]
    talk.hear("go")
    assert talk.noted == ["(cut after 24 tokens)"]
    assert talk.written()[0]["messages"][1]["weight"] == 0


def test_a_conversation_can_be_saved_behind_others(talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    talk.hear("a", f"/save {path}", "/reset", "b", f"/save {path}")
    assert [json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/rset", "no command /rset, did you mean 'reset'"),
        ("/undo", "nothing was said"),
        ("/retry", "nothing was asked"),
        ("/correct", "needs the text"),
        ("/context /nowhere/doc", "cannot be read: No such file"),
        ("/preset warm", "no sampling preset 'warm'"),
        ("/preset chat hot", "KEY=VALUE"),
        ("/save /nowhere/x", "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(line: str, said: str, talk: Talk) -> None:
    with pytest.raises(ConfigError, match=said):
        talk.hear(line)
    assert not talk.chat.session.exchanges


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="no regular expression"):
        redactions(["("])
