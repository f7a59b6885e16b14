"""What a reader is told of an exported model: architecture, data, recipe, numbers, and how to use it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mypt_dist.checkpoint import Manifest
from mypt_dist.interchange.hf.forms import Form
from mypt_dist.interchange.hf.tokenizer_files import CHAT_TEMPLATE, TOKENIZER
from mypt_dist.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card is made of."""

    name: str
    manifest: Manifest
    form: Form
    tokenizer: Tokenizer
    dtype: str
    """Of the exported weights, as transformers spells it."""
    parameters: int
    """A tied weight counted once."""
    files: frozenset[str]
    """Names of the files beside the card."""
    is_rounded: bool
    license: str | None


def model_card(facts: CardFacts) -> str:
    """README.md."""
    sections = [_front_matter(facts), f"# {facts.name}\n", _introduction(facts)]
    sections += [_use(facts), _architecture(facts), _data(facts.manifest), _recipe(facts.manifest)]
    sections += [_numbers(facts), _caveats(facts)]
    return "\n".join(sections)


def _front_matter(facts: CardFacts) -> str:
    entries = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mypt-dist", "causal-lm"],
        **({"license": facts.license} if facts.license else {}),
    }
    # JSON is YAML, and quotes whatever needs it.
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in entries.items()), "---\n"])


def _introduction(facts: CardFacts) -> str:
    manifest, code = facts.manifest, facts.manifest.code
    made = f"mypt-dist {code.get('version')}" + (f" (commit {str(code['commit'])[:12]})" if code.get("commit") else "")
    rounded = f"\nThe weights were rounded to {facts.dtype} for this export.\n" if facts.is_rounded else ""
    return (
        f"A {facts.form.architecture} of {facts.parameters:,} parameters, trained with {made}: checkpoint of step "
        f"{manifest.step:,}, after {manifest.tokens:,} tokens.\n{rounded}"
    )


def _use(facts: CardFacts) -> str:
    if TOKENIZER not in facts.files:
        return (
            "## Use\n\n`AutoModelForCausalLM.from_pretrained` loads the model. Its tokenizer has no exact equal in "
            "`tokenizer.json`; `mypt_tokenizer.json` is its description for mypt-dist.\n"
        )
    chat = (
        "\nFor conversations: `tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hello'}], "
        "add_generation_prompt=True, return_tensors='pt')`. Whether the model was taught to answer depends on its "
        "data below.\n"
    )
    return f"""## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
ids = tokenizer("Once upon", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```
{chat if CHAT_TEMPLATE in facts.files else ""}"""


def _architecture(facts: CardFacts) -> str:
    model = facts.manifest.run.get("model")
    entries = {
        "class": facts.form.architecture,
        "parameters": f"{facts.parameters:,}",
        "element type": facts.dtype,
        "tokenizer": f"{facts.tokenizer.kind}, {facts.tokenizer.vocab_size:,} ids",
        **({key: value for key, value in model.items() if key != "type"} if isinstance(model, dict) else {}),
    }
    return "## Architecture\n\n" + _table(entries)


def _data(manifest: Manifest) -> str:
    lines = ["## Data\n"]
    sources = manifest.data.get("sources")
    if isinstance(sources, dict) and sources:
        lines += ["| source | weight | dataset | made by | inputs |", "|---|--:|---|---|--:|"]
        lines += [_source(name, entry) for name, entry in sources.items() if isinstance(entry, dict)]
        lines.append("")
    fingerprint = manifest.data.get("fingerprint")
    if fingerprint:
        lines.append(f"Fingerprint of all of it: `{fingerprint}`. ")
    lines.append(
        f"Order of the samples: `{manifest.order_hash}` after {manifest.samples:,}. A dataset is named by the "
        "fingerprint of its content; `mypt data lineage` shows its inputs.\n"
    )
    return "\n".join(lines)


def _source(name: str, entry: Mapping[str, Any]) -> str:
    lineage = entry.get("lineage") or {}
    parents = len(lineage.get("parents", ()))
    made = str(lineage.get("made_by", "")) + (f" of {parents} datasets" if parents else "")
    cells = (name, entry.get("weight"), f"`{entry.get('fingerprint')}`", made, len(lineage.get("inputs", ())))
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _recipe(manifest: Manifest) -> str:
    run = manifest.run
    train, model = _section(run, "train"), _section(run, "model")
    batch, context = train.get("batch_size"), model.get("context")
    each = batch * context if isinstance(batch, int) and isinstance(context, int) else None
    entries: dict[str, Any] = {
        "steps": f"{manifest.step:,} of {train.get('steps', manifest.step):,}",
        "tokens": f"{manifest.tokens:,}" + (f", {each:,} a step ({batch:,} windows of {context:,})" if each else ""),
        "optimizer": _settings(_section(run, "optimizer")),
        "schedule": _settings(_section(train, "schedule")),
        "precision": train.get("precision"),
        "gradient norm at most": train.get("max_grad_norm"),
        "seed": manifest.seed,
        "ranks": f"{manifest.world_size} ({manifest.engine.get('name')})",
        "torch": manifest.code.get("torch"),
    }
    return "## Recipe\n\n" + _table({key: value for key, value in entries.items() if value not in (None, "")})


def _numbers(facts: CardFacts) -> str:
    metrics = {name: f"{value:.6g}" for name, value in sorted(facts.manifest.metrics.items())}
    picture = "\n![training and validation loss](curves.svg)\n" if "curves.svg" in facts.files else ""
    return "## Numbers at this step\n\n" + (_table(metrics) if metrics else "None were recorded.\n") + picture


def _caveats(facts: CardFacts) -> str:
    return "## Worth knowing\n\n" + "".join(f"* {line}\n" for line in _known_limits(facts))


def _known_limits(facts: CardFacts) -> Iterator[str]:
    unused = facts.form.config["vocab_size"] - facts.tokenizer.vocab_size
    if TOKENIZER in facts.files:
        yield (
            "Tokenizers of Hugging Face turn the name of a control token inside a text, such as `<|user|>`, into that "
            "token; the one this model was trained with never does. For text from strangers pass "
            "`split_special_tokens=True`."
        )
    if unused > 0:
        yield f"The last {unused:,} of {facts.form.config['vocab_size']:,} rows of the embedding are of no token."
    yield (
        "`generation_config.json` holds the sampling defaults of `mypt generate`. Its repetition penalty looks at all "
        "of the text, that of `mypt generate` at the last 256 tokens."
    )
    if not facts.license:
        yield "Its licence, and those of its data, are not recorded here: ask whoever trained it."


def _section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _settings(section: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in section.items() if value not in (None, [], ""))


def _table(entries: Mapping[str, Any]) -> str:
    rows = (f"| {_cell(key)} | {_cell(value)} |\n" for key, value in entries.items())
    return "| | |\n|---|---|\n" + "".join(rows)


def _cell(value: Any) -> str:
    """Text that stays inside its cell, whatever a dataset was called."""
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
