"""Conversations from their formats, and what no template and no text can break."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.chat import (
    MYPT,
    TEMPLATES,
    Conversation,
    ConversationError,
    Part,
    Renderer,
    Template,
    Turn,
    read_conversation,
)
from mypt_dist.chat.reading import value_at
from mypt_dist.config import validate
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import SPECIAL_NAMES, ByteTokenizer, CharTokenizer, Gpt2Tokenizer, with_specials

TOKENIZERS = [Gpt2Tokenizer(), ByteTokenizer(), CharTokenizer.of("abc<|/>userndoft")]
names = st.sampled_from([*SPECIAL_NAMES, *TEMPLATES["chatml"].tokens()])
texts = st.lists(st.one_of(names, st.text(max_size=5)), max_size=4).map("".join)


def of_role(role: str) -> st.SearchStrategy[Turn]:
    return texts.map(lambda text: Turn.says(role, text))  # type: ignore[arg-type]


parts = st.tuples(st.sampled_from(["think", "toolcall", "cite"]), texts).map(lambda pair: Part(*pair))
answers = st.builds(
    lambda before, text, after, learned: Turn("assistant", (*before, Part("text", text), *after), learned),
    st.lists(parts, max_size=1),
    texts,
    st.lists(parts, max_size=2),
    st.booleans(),
)
turns = st.one_of(answers, *(of_role(role) for role in ("system", "context", "user", "toolresult")))
conversations = st.lists(turns, max_size=5).map(lambda found: Conversation(tuple(found)))


@settings(deadline=None, max_examples=50)
@given(conversations, st.sampled_from(TOKENIZERS))
def test_no_text_becomes_a_control_token(conversation: Conversation, tokenizer: Any) -> None:
    empty = Conversation(
        tuple(Turn(turn.role, tuple(Part(part.kind, "") for part in turn.parts)) for turn in conversation.turns)
    )
    renderer = Renderer(tokenizer)
    specials = set(tokenizer.specials.values())
    tags = [token for token in renderer.render(conversation).ids.tolist() if token in specials]
    assert tags == renderer.render(empty).ids.tolist()


@settings(deadline=None, max_examples=40)
@given(conversations, st.data())
def test_a_cut_conversation_is_the_beginning_of_the_whole_one(conversation: Conversation, data: st.DataObject) -> None:
    renderer = Renderer(Gpt2Tokenizer())
    whole = renderer.render(conversation)
    cut = data.draw(st.integers(0, len(conversation.turns)))
    begin = renderer.render(Conversation(conversation.turns[:cut]))
    assert np.array_equal(whole.ids[: len(begin)], begin.ids)
    assert np.array_equal(whole.mask[: len(begin)], begin.mask)
    if cut < len(conversation.turns) and conversation.turns[cut].role == "assistant":
        prompt = renderer.prompt(Conversation(conversation.turns[:cut]))
        assert np.array_equal(whole.ids[: len(prompt)], prompt)
        assert whole.mask[len(prompt)] == conversation.turns[cut].learned


@settings(deadline=None, max_examples=40)
@given(conversations)
def test_texts_survive_any_conversation(conversation: Conversation) -> None:
    renderer = Renderer(Gpt2Tokenizer())
    found = renderer.texts(renderer.render(conversation).ids, conversation)
    assert found == [part.text for _, part in conversation.parts()]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(answers, of_role("user"), of_role("system"), of_role("toolresult")), max_size=4))
def test_texts_survive_a_template_with_text_of_its_own(found: list[Turn]) -> None:
    conversation = Conversation(
        tuple(Turn(turn.role, tuple(p for p in turn.parts if p.kind != "cite")) for turn in found)
    )
    chatml = TEMPLATES["chatml"]
    renderer = Renderer(with_specials(Gpt2Tokenizer(), chatml.tokens()), chatml)
    assert renderer.texts(renderer.render(conversation).ids, conversation) == [p.text for _, p in conversation.parts()]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[]", "the line must be an object, got a list"),
        ('{"text": "x"}', r"neither 'messages' nor 'conversations' \('text'\)"),
        ('{"messages": []}', "there is no turn in it"),
        ('{"messages": {}}', "messages must be a list, got an object"),
        ('{"messages": [3]}', r"messages\[0\] must be an object, got a number"),
        ('{"messages": [{"content": "x"}]}', r"messages\[0\]\.role is missing"),
        (
            '{"messages": [{"role": "bot", "content": "x"}]}',
            r"messages\[0\]\.role is 'bot', known are system, developer",
        ),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\]\.content is missing"),
        ('{"messages": [{"role": "user", "content": null}]}', r"messages\[0\]\.content must be text, got null"),
        ('{"system": 1, "messages": []}', "system must be text, got a number"),
        ('{"context": "c", "messages": [{"role": "system", "content": "x"}]}', r"messages\[0\]\.role is 'system'"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "only text can be learned"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', r"messages\[0\]\.content holds .*half a character"),
        ('{"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}', r"weight must be 0 or 1, got 0\.5"),
        ('{"messages": [{"role": "assistant_toolcall", "name": "f"}]}', r"messages\[0\]\.arguments is missing"),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}',
            "is text, but not JSON",
        ),
        ('{"conversations": [{"from": "robot", "value": "x"}]}', r"conversations\[0\]\.from is 'robot'"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_place(line: str, complaint: str) -> None:
    with pytest.raises(ConversationError, match=complaint):
        read_conversation(json.loads(line))


def test_places_tell_where_texts_stand_as_they_are() -> None:
    value = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one"}]},
            {"role": "assistant", "content": "two", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        ]
    }
    format_, found = read_conversation(value)
    assert format_ == "messages"
    told = [None if place is None else value_at(value, place) for place in found.places]
    assert told == ["one", "two", None]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"stop": "<|endoftext|>"}, "never learns to stop"),
        ({"stop": "<|/assistant|>"}, "must end with its stop"),
        ({"turns": {"user": {"close": [{"token": "<|/user|>"}]}}}, "must have the assistant"),
        ({"parts": {"think": {"open": [{"text": "x"}], "close": [{"token": "<|/think|>"}]}}}, "begin with a control"),
        ({"parts": {"think": {"open": [{"token": "<|think|>"}]}}}, "close needs a control token"),
        ({"begin": [{"token": "a", "text": "b"}]}, "either token"),
    ],
)
def test_a_template_that_could_not_be_learned_or_read_back_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        validate(Template, {**MYPT.model_dump(mode="json"), **change}, "the template")


def test_a_template_comes_from_a_file(tmp_path: Any) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**MYPT.model_dump(mode="json", exclude_none=True), "name": "mine"}))
    assert Template.read(str(path)).turns == MYPT.turns
    assert Template.read("mypt") is MYPT
    with pytest.raises(ConfigError, match="no template is called 'mine'"):
        Template.read("mine")
