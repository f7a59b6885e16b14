"""Tasks of the lm-evaluation-harness, asked of our own model: no export, no second implementation of the model.

Loaded only when tasks are asked for: the harness, an extra of this package, takes seconds to import. A model is a
`TemplateLM` here, so contexts and continuations are cut as the harness cuts them for transformers' models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from mypt_dist.config.problems import near_miss
from mypt_dist.errors import ConfigError
from mypt_dist.generation.ids import stream_ids
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.models.layers.causal_lm import CausalLM
from mypt_dist.tokenizers import Tokenizer

MAX_NEW_TOKENS = 256
"""Where a task does not say."""
RESAMPLINGS = 1000
"""For standard errors that have no formula."""

Scored = tuple[float, bool]
"""Log-likelihood in nats, and whether greedy decoding would have said the same."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which tasks, and how much of them."""

    tasks: tuple[str, ...]
    folder: Path | None = None
    """With task files of one's own, which win over the harness' tasks."""
    few_shot: int | None = None
    """Examples in the prompt. Null: as the task says."""
    limit: int | None = None
    """Documents of each task. Null: all."""


def run_tasks(model: CausalLM, tokenizer: Tokenizer, asked: Asked, batch_size: int = 8) -> dict[str, dict[str, Any]]:
    """``metrics``, ``version`` and ``documents`` of each task and group. Raises `ConfigError` for an unknown task."""
    manager = _manager(asked)
    found = simple_evaluate(
        model=HarnessModel(model, tokenizer, batch_size),
        tasks=list(asked.tasks),
        num_fewshot=asked.few_shot,
        limit=asked.limit,
        bootstrap_iters=RESAMPLINGS,
        task_manager=manager,
        log_samples=False,
    )
    assert found is not None, "this is the only rank"
    results: dict[str, dict[str, Any]] = {}
    for task, measured in found["results"].items():
        samples = found.get("n-samples", {}).get(task, {})
        results[task] = {
            "metrics": dict(_numbers(measured)),
            "version": found.get("versions", {}).get(task),
            "few_shot": found.get("n-shot", {}).get(task),
            "documents": samples.get("effective"),
            "harness": version("lm_eval"),
        }
    return results


class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness is untyped
    """A model and its tokenizer as the harness asks for them."""

    def __init__(self, model: CausalLM, tokenizer: Tokenizer, batch_size: int) -> None:
        super().__init__()
        self._model, self._tokens, self._batch_size = model.eval(), tokenizer, batch_size
        self._device = next(model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        """What an empty context is, too: every document of the training data follows one."""
        return self._tokens.eot_id

    @property
    def tokenizer_name(self) -> str:
        return f"{self._tokens.kind}-{self._tokens.fingerprint[:12]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text; there is none to add."""
        ids: list[int] = self._tokens.encode(string).tolist()
        return ids

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, each token once, in windows as long as the context."""
        scores = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self._model.context, 1)
            pieces = [(("", ""), *make_disjoint_window(window)) for window in windows]
            scores.append(sum(score for score, _ in self._loglikelihood_tokens(pieces)))
        return scores

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to, and without, the first of a task's stop texts."""
        return [self._until(context, dict(settings)) for context, settings in (request.args for request in requests)]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[Scored]:
        scored: dict[int, Scored] = {}
        # The longest first, so that a batch holds rows of about one length, and the first is the largest.
        order = sorted(range(len(requests)), key=lambda number: -len(requests[number][1]) - len(requests[number][2]))
        for first in range(0, len(order), self._batch_size):
            numbers = order[first : first + self._batch_size]
            scored.update(zip(numbers, self._score([requests[number][1:] for number in numbers]), strict=True))
        return [scored[number] for number in range(len(requests))]

    @torch.inference_mode()
    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterable[Scored]:
        context = self._model.context
        for _, continuation in pairs:
            if len(continuation) > context:
                raise ConfigError(
                    f"a continuation of {len(continuation)} tokens is longer than the model's context of {context}"
                )
        # What is too long loses its beginning; the last token is predicted, and predicts nothing.
        rows = [(before + continuation)[-context - 1 :] for before, continuation in pairs]
        longest = max(len(row) for row in rows) - 1
        # Padded on the right: what comes after a row's end is seen by none of its tokens.
        padded = torch.tensor([[*row[:-1], *[0] * (longest - len(row) + 1)] for row in rows], device=self._device)
        hidden = self._model.hidden(padded)
        head = self._model.get_output_embeddings()
        for number, (row, (_, continuation)) in enumerate(zip(rows, pairs, strict=True)):
            end, count = len(row) - 1, len(continuation)
            logits: Tensor = head(hidden[number, end - count : end]).float()
            targets = torch.tensor(continuation, device=self._device)
            chosen = logits.log_softmax(dim=-1).gather(1, targets[:, None])
            yield float(chosen.double().sum()), bool((logits.argmax(dim=-1) == targets).all())

    def _until(self, context: str, settings: dict[str, Any]) -> str:
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else [stop for stop in stops if stop]
        sampling = SamplingConfig(
            max_new_tokens=int(settings.get("max_gen_toks", settings.get("max_new_tokens", MAX_NEW_TOKENS))),
            temperature=float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0,
            top_k=int(settings.get("top_k", 0)),
            top_p=float(settings.get("top_p", 1.0)),
            repetition_penalty=1.0,
            stop=(self.eot_token_id,),
        )
        prompt = self.tok_encode(context) or [self.eot_token_id]
        ids: list[int] = []
        for new in stream_ids(self._model, [prompt], sampling, vocab_size=self._tokens.vocab_size):
            ids.append(new[0])
            text = self._tokens.decode(ids)
            ends = [place for stop in stops if (place := text.find(stop)) >= 0]
            if ends:
                return text[: min(ends)]
        return self._tokens.decode(ids)


def _manager(asked: Asked) -> TaskManager:
    """The harness' own tasks are looked through only where the user's do not do: there are thousands."""
    own = TaskManager(include_path=asked.folder, include_defaults=False) if asked.folder is not None else None
    if own is not None and all(task in own.all_tasks for task in asked.tasks):
        return own
    everything = TaskManager(include_path=asked.folder)
    for task in asked.tasks:
        if not everything.match_tasks([task]):
            raise ConfigError(
                f"the harness has no task {task!r}{near_miss(task, everything.all_tasks)} "
                f"(of its own {len(everything.all_tasks):,}, or in --include DIR)"
            )
    return everything


def _numbers(measured: dict[str, Any]) -> Iterable[tuple[str, float]]:
    for key, value in measured.items():
        if isinstance(value, int | float) and "," in key:
            metric, _, chosen = key.partition(",")
            yield (metric if chosen == "none" else f"{metric}.{chosen}"), float(value)
