"""A conversation under way: what an answer consists of, what still fits, and that a transcript is read back as said."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.chat import Conversation, Part, Renderer, Turn, read_conversation
from mypt_dist.chat.answer import Answer, adherence, read_answer
from mypt_dist.chat.session import Session
from mypt_dist.chat.transcript import transcript
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
RENDERER = Renderer(TOKENIZER)


def ids(text: str) -> list[int]:
    """``⟨think⟩a⟨/think⟩b`` as tokens."""
    found: list[int] = []
    for piece in text.replace("⟩", "⟨").split("⟨"):
        name = f"<|{piece}|>"
        found += [TOKENIZER.specials[name]] if name in TOKENIZER.specials else TOKENIZER.encode(piece).tolist()
    return found


@pytest.mark.parametrize(
    ("said", "parts", "complete", "well_formed"),
    [
        ("Yes.⟨/assistant⟩⟨endofturn⟩", [("text", "Yes.")], True, True),
        ("Yes.⟨/assistant⟩", [("text", "Yes.")], True, True),
        ("⟨/assistant⟩", [("text", "")], True, True),
        ("⟨think⟩a⟨/think⟩b⟨cite⟩c⟨/cite⟩⟨/assistant⟩", [("think", "a"), ("text", "b"), ("cite", "c")], True, True),
        ("⟨think⟩⟨/think⟩b⟨/assistant⟩", [("think", ""), ("text", "b")], True, True),
        ("Yes", [("text", "Yes")], False, True),
        ("Yes.⟨endofturn⟩", [("text", "Yes.")], True, False),
        ("Yes.⟨endoftext⟩", [("text", "Yes.")], True, False),
        ("⟨think⟩a⟨/assistant⟩", [("think", "a")], True, False),
        ("⟨think⟩a⟨cite⟩b⟨/think⟩c⟨/assistant⟩", [("think", "ab"), ("text", "c")], True, False),
        ("a⟨user⟩b⟨/assistant⟩", [("text", "ab")], True, False),
        ("a⟨/think⟩b⟨/assistant⟩", [("text", "ab")], True, False),
        ("a⟨/assistant⟩⟨user⟩not looked at", [("text", "a")], True, True),
    ],
)
def test_an_answer_is_read_part_by_part(
    said: str, parts: list[tuple[str, str]], complete: bool, well_formed: bool
) -> None:
    answer = read_answer(ids(said), RENDERER)
    assert [(part.kind, part.text) for part in answer.turn.parts] == parts
    assert (answer.complete, answer.well_formed) == (complete, well_formed)
    assert answer.turn.learned == (complete and well_formed)


def test_adherence_is_the_share_of_answers_that_are_as_taught() -> None:
    answers = [read_answer(ids(said), RENDERER) for said in ("a⟨/assistant⟩", "a", "a⟨endofturn⟩", "b⟨/assistant⟩")]
    assert adherence(answers) == 0.5
    assert adherence([]) == 0


TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["<|user|>", "<|/assistant|>", ""])
PARTS = st.tuples(st.none() | TEXT, TEXT, st.none() | TEXT).map(
    lambda said: tuple(Part(k, t) for k, t in zip(("think", "text", "cite"), said, strict=True) if t is not None)
)
ANSWERS = st.builds(
    lambda parts, complete: Answer(Turn("assistant", parts, complete), complete, True), PARTS, st.booleans()
)
EXCHANGES = st.lists(st.tuples(TEXT, st.none() | TEXT.filter(bool), ANSWERS), max_size=5)


def held(exchanges: list[tuple[str, str | None, Answer]], system: str | None = None) -> Session:
    session = Session(RENDERER, system or None)
    for question, context, answer in exchanges:
        if context is not None:
            session.attached.append(context)
        session.ask(question)
        session.answered(answer)
    return session


@settings(deadline=None, max_examples=60)
@given(exchanges=EXCHANGES.filter(bool), system=st.none() | TEXT)
def test_a_transcript_is_read_back_as_what_was_said(
    exchanges: list[tuple[str, str | None, Answer]], system: str | None
) -> None:
    session = held(exchanges, system)
    line = json.dumps(transcript(session))
    assert read_conversation(json.loads(line))[1].conversation == session.conversation()


@settings(deadline=None, max_examples=60)
@given(exchanges=EXCHANGES, system=st.none() | TEXT, room=st.integers(20, 160))
def test_history_is_forgotten_by_whole_exchanges_the_oldest_first_and_no_more_than_needed(
    exchanges: list[tuple[str, str | None, Answer]], system: str | None, room: int
) -> None:
    session = held(exchanges, system)
    session.ask("now?")
    turns = session.conversation().turns
    head, rest = turns[: bool(system)], [one.turns() for one in session.exchanges]

    def laid_out(forgotten: int) -> list[int]:
        left = [turn for exchange in rest[forgotten:] for turn in exchange]
        return list(RENDERER.prompt(Conversation((*head, *left))).tolist())

    least = laid_out(len(exchanges))
    if len(least) > room:
        with pytest.raises(ConfigError, match=f"has {len(least)} tokens, .* has room for {room}"):
            session.prompt(room)
        return
    prompt = session.prompt(room)
    assert prompt.ids.tolist() == laid_out(prompt.forgotten)
    assert len(prompt.ids) <= room
    assert prompt.forgotten == 0 or len(laid_out(prompt.forgotten - 1)) > room


def test_what_the_format_cannot_say_is_kept_and_never_learned() -> None:
    session = Session(RENDERER)
    for said in (
        '⟨toolcall⟩{"name": "look", "arguments": {"at": 1}}⟨/toolcall⟩⟨/assistant⟩',
        "⟨toolcall⟩look at 1⟨/toolcall⟩⟨/assistant⟩",
        "⟨cite⟩c⟨/cite⟩text first would be as taught⟨/assistant⟩",
        "cut",
    ):
        session.ask("?")
        session.answered(read_answer(ids(said), RENDERER))
    answers = [m for m in transcript(session)["messages"] if m["role"] != "user"]
    assert answers == [
        {"role": "assistant_toolcall", "name": "look", "arguments": {"at": 1}},
        {"role": "assistant", "content": "look at 1", "weight": 0},
        {"role": "assistant", "content": "ctext first would be as taught", "weight": 0},
        {"role": "assistant", "content": "cut", "weight": 0},
    ]
    read = read_conversation(transcript(session))[1].conversation
    assert [turn.learned for turn in read.turns if turn.role == "assistant"] == [True, False, False, False]


def test_every_text_is_redacted() -> None:
    session = Session(RENDERER, "Ann asks.", "Ann lives here.")
    session.attached.append("About Ann")
    session.ask("Who is Ann?")
    session.answered(read_answer(ids("⟨think⟩Ann?⟨/think⟩Ann.⟨cite⟩Ann⟨/cite⟩⟨/assistant⟩"), RENDERER))
    line = json.dumps(transcript(session, [lambda text: text.replace("Ann", "A."), str.upper]))
    assert "Ann" not in line
    assert line.count("A.") == 7
