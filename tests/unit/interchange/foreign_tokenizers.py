"""Small tokenizers as other people's models have them, trained on the spot."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Regex as Pattern

from mypt_dist.tokenizers.hf import KNOWN_PATTERNS

SENTENCES = [
    "the quick brown fox jumps over the lazy dog, doesn't it? 1234 times",
    "Größe, naïve cafés and 日本語 too;\n\n\tdef f(x): return x + 1",
    "while seven wizards brewed strange potions at night the dog slept",
]


def trained(way: str) -> Tokenizer:
    """``smollm``, ``llama3`` or ``qwen``: their way to cut words, and where they keep their special tokens."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=way == "smollm")
    first = {
        "smollm": pre_tokenizers.Digits(individual_digits=True),
        "llama3": pre_tokenizers.Split(Pattern(KNOWN_PATTERNS[0]), "isolated"),
        "qwen": pre_tokenizers.Split(Pattern(KNOWN_PATTERNS[1]), "isolated"),
    }[way]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, level])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>"] if way == "smollm" else []
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if way == "llama3":
        names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
        tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
        begin = tokenizer.token_to_id(names[0])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{names[0]} $A", special_tokens=[(names[0], begin)]
        )
    if way == "qwen":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
        tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return tokenizer


def description(way: str) -> dict[str, Any]:
    """The content of its ``tokenizer.json``."""
    content: dict[str, Any] = json.loads(trained(way).to_str())
    return content


def save_tokenizer(way: str, folder: Path, **config: Any) -> None:
    """Write it, and what ``tokenizer_config.json`` says of it."""
    trained(way).save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
