"""Our templates as Jinja: the same text, and no way out of the sandbox."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.chat import TEMPLATES, Renderer, Template, read_conversation
from mypt_dist.chat.jinja import chat_template_jinja, compiled, rendered
from mypt_dist.errors import ConfigError, DataError
from mypt_dist.tokenizers import ByteTokenizer, with_specials

BYTES = ByteTokenizer()
JINJA = {name: compiled(chat_template_jinja(template)) for name, template in TEMPLATES.items()}
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["<|user|>", "{{ 7 * 7 }}", "{%- if x -%}", " \n", "<b>'&\"", "{#"]
)
values = st.none() | st.booleans() | st.integers(-9, 9) | text | st.lists(text, max_size=2)
arguments = st.dictionaries(text, values, max_size=2) | st.just('{"a":  1}')
calls = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": text, "arguments": arguments})})
content = text | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}), min_size=1, max_size=2)
messages = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user", "tool"]), "content": content}),
        st.fixed_dictionaries(
            {"role": st.just("assistant"), "content": content},
            optional={"reasoning_content": text, "tool_calls": st.lists(calls, max_size=2)},
        ),
        st.fixed_dictionaries(
            {"role": st.just("assistant"), "content": st.none(), "tool_calls": st.lists(calls, min_size=1, max_size=2)}
        ),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@settings(deadline=None, max_examples=30)
@given(messages=messages, tools=st.none() | st.just([{"name": "f", "of": ["<", "ü"]}]))
def test_jinja_renders_what_the_renderer_renders(template: Template, messages: list[Any], tools: Any) -> None:
    tokenizer = with_specials(BYTES, [name for name in template.tokens() if name not in BYTES.specials])
    renderer = Renderer(tokenizer, template)
    _, found = read_conversation({"messages": messages, "tools": tools}, "messages")
    jinja = JINJA[template.name]
    whole = renderer.text(found.conversation)
    assert rendered(jinja, messages, tools=tools) == whole
    asked = rendered(jinja, messages, tools=tools, ask=True)
    assert asked == tokenizer.decode(renderer.prompt(found.conversation).tolist())


def test_jinja_says_what_it_has_no_place_for() -> None:
    with pytest.raises(DataError, match="no place for this role"):
        rendered(compiled(chat_template_jinja(TEMPLATES["chatml"])), [{"role": "context", "content": "x"}])


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['spelled'] }}",
        "{{ 'x'.__mod__ }}{{ 0 / 0 }}",
    ],
)
def test_jinja_of_others_reaches_nothing(escape: str) -> None:
    with pytest.raises(DataError, match="the chat template fails"):
        rendered(compiled(escape), [{"role": "user", "content": "x"}])


def test_what_is_no_jinja_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no Jinja"):
        compiled("{% if %}")
