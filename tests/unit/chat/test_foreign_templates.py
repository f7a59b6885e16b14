"""Jinja of other programs: laid out as they say, learned as we say, and refused where that cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.chat import TEMPLATES, Conversation, Part, Renderer, Turn, named_template, renderer_for
from mypt_dist.chat.foreign import JinjaRenderer, JinjaTemplate
from mypt_dist.chat.jinja import chat_template_jinja
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import Gpt2Tokenizer, with_specials

LLAMA = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CONTROL = ("<|start_header_id|>", "<|end_header_id|>")
NAMES = {"bos_token": "<|begin_of_text|>"}
TALK = Conversation(
    (
        Turn.says("user", "Hi <|eot_id|>"),
        Turn.says("assistant", "<|start_header_id|>x"),
        Turn.says("user", "and?"),
        Turn("assistant", (Part("text", "no"),), learned=False),
    )
)


def llama(source: str = LLAMA, stop: str = "<|eot_id|>") -> JinjaRenderer:
    template = JinjaTemplate(name="llama", source=source, stop=stop, control=CONTROL, names=NAMES)
    return JinjaRenderer(with_specials(Gpt2Tokenizer(), template.tokens()), template)


def test_a_foreign_template_is_laid_out_and_only_answers_are_learned() -> None:
    renderer = llama()
    rendered, decode = renderer.render(TALK), renderer.tokenizer.decode
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert decode(rendered.ids.tolist()) == (
        f"<|begin_of_text|>{head.format('user')}Hi <|eot_id|><|eot_id|>{head.format('assistant')}"
        f"<|start_header_id|>x<|eot_id|>{head.format('user')}and?<|eot_id|>{head.format('assistant')}no<|eot_id|>"
    )
    learned = rendered.ids[rendered.mask == 1].tolist()
    assert decode(learned) == "<|start_header_id|>x<|eot_id|>"
    special = renderer.tokenizer.specials
    assert learned[-1] == special["<|eot_id|>"]
    assert special["<|start_header_id|>"] not in learned, "text of the assistant stays text"
    assert renderer.texts(rendered.ids, TALK) == [part.text for _, part in TALK.parts()]
    cut = Conversation(TALK.turns[:1])
    prompt = renderer.prompt(cut)
    assert prompt.tolist() == rendered.ids[: len(prompt)].tolist()


def test_our_own_jinja_read_as_foreign_gives_what_the_structure_gives() -> None:
    for template in (TEMPLATES["mypt"], TEMPLATES["chatml"]):
        missing = [name for name in template.tokens() if name not in Gpt2Tokenizer().specials]
        tokenizer = with_specials(Gpt2Tokenizer(), missing)
        source = chat_template_jinja(template)
        foreign = JinjaTemplate(name="x", source=source, stop=template.stop, control=template.tokens())
        ours, theirs = Renderer(tokenizer, template).render(TALK), JinjaRenderer(tokenizer, foreign).render(TALK)
        assert (ours.ids.tolist(), ours.mask.tolist()) == (theirs.ids.tolist(), theirs.mask.tolist())


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.text(max_size=6) | st.sampled_from([*CONTROL, "<|eot_id|>", "\u27e61\u27e7"]), min_size=2, max_size=4)
)
def test_texts_never_become_control_tokens_of_a_foreign_template(texts: list[str]) -> None:
    renderer = llama(LLAMA.replace(" | trim", ""))
    turns = tuple(Turn.says("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts))
    rendered = renderer.render(Conversation(turns))
    special = set(renderer.tokenizer.specials.values())
    assert sum(token in special for token in rendered.ids.tolist()) == 1 + 3 * len(texts)
    assert renderer.texts(rendered.ids, Conversation(turns)) == texts


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (LLAMA.replace("<|eot_id|>", ""), "would not be learned"),
        (
            LLAMA.replace("message['content'] | trim", "message['content'] if loop.last else ''"),
            "not prefix-preserving",
        ),
        (LLAMA.replace("message['content'] | trim", "'...'"), "leaves out texts"),
        (LLAMA.replace("message['content'] | trim", "message['content'] * 2"), "leaves out texts, repeats"),
        (LLAMA.replace("| trim", "| upper"), "changes texts"),
        ("{{ raise_exception('no system, please') }}", "no system, please"),
    ],
)
def test_what_cannot_be_learned_or_trusted_is_refused(source: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        llama(source).render(TALK)


def test_white_space_that_a_template_takes_away_is_not_taken_away_in_silence() -> None:
    with pytest.raises(DataError, match="changes texts"):
        llama().render(Conversation((Turn.says("user", " x"), Turn.says("assistant", "y"))))
    with pytest.raises(DataError, match="cannot lay out toolcall"):
        llama().render(Conversation((Turn("assistant", (Part("toolcall", "{}"),)),)))


def test_a_model_brings_its_template_and_its_control_tokens(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "chat_template": LLAMA,
        "bos_token": {"content": "<|begin_of_text|>"},
        "eos_token": "<|eot_id|>",
        "added_tokens_decoder": {str(n): {"content": name} for n, name in enumerate((*CONTROL, "<|unused|>"))},
    }
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(config))
    template = named_template(str(path))
    assert template.tokens() == (*CONTROL, "<|begin_of_text|>", "<|eot_id|>")
    tokenizer = with_specials(Gpt2Tokenizer(), template.tokens())
    assert renderer_for(tokenizer, template).render(TALK).mask.sum() == llama().render(TALK).mask.sum()
    bare = tmp_path / "x.jinja"
    bare.write_text(LLAMA)
    with pytest.raises(ConfigError, match="--stop"):
        named_template(str(bare))
    assert named_template(str(bare), stop="<|eot_id|>", control=CONTROL).stop == "<|eot_id|>"
    with pytest.raises(ConfigError, match="says itself"):
        named_template("mypt", stop="x")
