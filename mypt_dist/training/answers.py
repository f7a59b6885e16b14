"""What does the model answer to fixed questions? Asked in every evaluation, under every engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mypt_dist.chat import Renderer
from mypt_dist.chat.answer import Answer, adherence, closing_ids, read_answer
from mypt_dist.engine import Engine
from mypt_dist.engine.host import peers_may_be_lost
from mypt_dist.generation.filters import without_unused
from mypt_dist.training.evaluate import evaluating


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that wants an answer."""

    text: str
    """For people: what was said last."""
    expected: str
    """What somebody answered."""
    ids: tuple[int, ...]
    """What the model is to continue."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, and how the answers are read."""

    asked: Sequence[Question]
    renderer: Renderer
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Answers:
    """What the model said."""

    questions: Questions
    said: Sequence[Answer]

    def metrics(self) -> dict[str, float]:
        """``val/format``: the share of answers that end by themselves and are well-formed."""
        return {"val/format": adherence(self.said)} if self.said else {}

    def table(self) -> dict[str, list[list[object]] | list[str]]:
        """As pandas writes a frame with ``orient="split"``."""
        columns = ["question", "expected", "answer", "complete", "well_formed"]
        data: list[list[object]] = [
            [question.text, question.expected, shown(answer), answer.complete, answer.well_formed]
            for question, answer in zip(self.questions.asked, self.said, strict=False)
        ]
        return {"columns": columns, "data": data}


def shown(answer: Answer) -> str:
    """All of an answer as text, the names of its parts included."""
    return "".join(part.text if part.kind == "text" else f"[{part.kind}: {part.text}]" for part in answer.turn.parts)


def ask_all(
    engine: Engine, model: nn.Module, questions: Questions, stopping: Callable[[], bool] = lambda: False
) -> Answers:
    """The likeliest answer to every question; fewer if ``stopping`` says on any rank that the run is about to end.

    Whole passes without a cache, the same ones on all ranks: where weights are sharded, each is a collective.
    """
    said: list[Answer] = []
    with evaluating(model), torch.no_grad(), peers_may_be_lost():
        for question in questions.asked:
            if engine.sum(stopping())[0]:
                break
            said.append(read_answer(_continued(engine, model, question.ids, questions), questions.renderer))
    return Answers(questions, said)


def _continued(engine: Engine, model: nn.Module, ids: Sequence[int], questions: Questions) -> list[int]:
    ends, vocab_size = closing_ids(questions.renderer), questions.renderer.tokenizer.vocab_size
    said: list[int] = []
    while len(said) < questions.max_new_tokens and not (said and said[-1] in ends):
        logits: Tensor = model(torch.tensor([[*ids, *said]], device=engine.device))
        likeliest = int(without_unused(logits[0, -1:].float(), vocab_size).argmax())
        # Rank 0's, so that all ranks make as many passes.
        (token,) = engine.sum(likeliest if engine.is_main else 0)
        said.append(int(token))
    return said
