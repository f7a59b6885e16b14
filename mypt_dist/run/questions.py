"""The fixed questions of a run's evaluations, from a file of conversations."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from mypt_dist.chat import Conversation, ConversationError, Renderer, Template, Turn, read_conversation
from mypt_dist.data.config import AnswersConfig
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import Tokenizer
from mypt_dist.training.answers import Question, Questions

KEY = "evaluation.answers"


def fixed_questions(config: AnswersConfig | None, tokenizer: Tokenizer, context: int) -> Questions | None:
    """The conversations that ``config`` names, each without its last answer; None if it is None.

    Raises `ConfigError` for a file that holds none, and for a conversation that leaves no room for an answer.
    """
    if config is None:
        return None
    renderer = Renderer(tokenizer, Template.read(config.template))
    room = context - config.max_new_tokens
    asked: list[Question] = []
    for number, conversation in _conversations(config.path):
        if len(asked) == config.count:
            break
        question = _question(conversation, renderer, f"{KEY}.path: {config.path}, line {number}")
        if len(question.ids) > room:
            raise ConfigError(
                f"{KEY}.path: {config.path}, line {number} has {len(question.ids)} tokens before its answer, and a "
                f"context of {context} leaves {room} beside {config.max_new_tokens} new ones: leave it out, or lower "
                f"{KEY}.max_new_tokens"
            )
        asked.append(question)
    if not asked:
        raise ConfigError(f"{KEY}.path: {config.path} holds no conversation")
    return Questions(asked, renderer, config.max_new_tokens)


def fingerprint(questions: Questions | None) -> str | None:
    """Equal where the same is asked."""
    if questions is None:
        return None
    text = json.dumps([[question.ids for question in questions.asked], questions.max_new_tokens])
    return hashlib.sha256(text.encode()).hexdigest()


def _conversations(path: Path) -> Iterator[tuple[int, Conversation]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{KEY}.path: {path} cannot be read: {reason}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, read_conversation(json.loads(line))[1].conversation
            except (ValueError, ConversationError) as error:
                raise ConfigError(f"{KEY}.path: {path}, line {number}: {error}") from None


def _question(conversation: Conversation, renderer: Renderer, where: str) -> Question:
    *before, last = conversation.turns
    if last.role != "assistant" or not before:
        raise ConfigError(f"{where} must end with an answer of the assistant, behind what it answers")
    try:
        ids = renderer.prompt(Conversation(tuple(before))).tolist()
    except DataError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Question(_text(before[-1]), _text(last), tuple(ids))


def _text(turn: Turn) -> str:
    return "".join(part.text for part in turn.parts)
