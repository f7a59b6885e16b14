"""A template as Jinja, which other programs read; and Jinja that others wrote, in a sandbox.

The environment is that of Hugging Face's `apply_chat_template`, so that what is rendered here is rendered there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import Template as CompiledTemplate
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mypt_dist.chat.conversation import Role, spelled
from mypt_dist.chat.template import Frame, Pieces, Template
from mypt_dist.errors import ConfigError, DataError

MAX_CHARACTERS = 1 << 20
"""Of a template: the longest of models are some tens of thousands."""

NAMES: Mapping[Role, Sequence[str]] = {
    "system": ("system", "developer"),
    "context": ("context",),
    "user": ("user",),
    "assistant": ("assistant",),
    "toolresult": ("tool",),
}
"""What the common format of messages calls a role."""


def chat_template_jinja(template: Template) -> str:
    """``template`` in Jinja, for messages of the common format: ``messages``, ``tools``, ``add_generation_prompt``.

    It renders exactly the text that `Renderer.text` gives of the same messages.
    """
    system = template.turns.get("system")
    tools = _shown(system.open) + "{{- tools | tojson -}}" + _closed(system) if system else _refusal("tools")
    head = f"{{%- if tools and loop.first and message['role'] not in {_names('system')} -%}}{tools}{{%- endif -%}}"
    tail = f"{{%- if tools and loop.first and message['role'] in {_names('system')} -%}}{tools}{{%- endif -%}}"
    branches = "".join(
        f"{{%- {'if' if number == 0 else 'elif'} message['role'] in {_names(role)} -%}}"
        + _shown(frame.open)
        + (_answer(template) if role == "assistant" else _content())
        + _closed(frame)
        for number, (role, frame) in enumerate(template.turns.items())
    )
    asking = _shown(template.turns["assistant"].open)
    return "".join(
        [
            _shown(template.begin),
            "{%- for message in messages -%}",
            head,
            branches,
            "{%- else -%}" + _refusal("this role") + "{%- endif -%}",
            tail,
            "{%- endfor -%}",
            "{%- if add_generation_prompt -%}" + asking + "{%- endif -%}",
        ]
    )


def compiled(text: str) -> CompiledTemplate:
    """Jinja that another program wrote, unable to reach anything but its arguments. Raises `ConfigError`."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"the chat template has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(text)
    except TemplateError as error:
        raise ConfigError(f"the chat template is no Jinja: {error}") from None


def rendered(
    template: CompiledTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Any = None,
    ask: bool = False,
    names: Mapping[str, str] | None = None,
) -> str:
    """Messages as text. ``ask``: for an answer. ``names``: of ``bos_token`` and the like. Raises `DataError`."""
    try:
        return template.render(messages=messages, tools=tools, add_generation_prompt=ask, **(names or {}))
    except Exception as error:  # noqa: BLE001 - what others wrote can raise anything
        raise DataError(f"the chat template fails: {error}") from None


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Jinja's own escapes what HTML would take for its own."""
    if indent is None and not ensure_ascii:
        return spelled(value)
    raise TypeError("tojson takes no options here")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _shown(pieces: Pieces) -> str:
    text = "".join(piece.token or piece.text or "" for piece in pieces)
    return f"{{{{- {text!a} -}}}}" if text else ""


def _closed(frame: Frame) -> str:
    return _shown((*frame.close, *frame.after))


def _names(role: Role) -> str:
    return f"({', '.join(map(repr, NAMES[role]))},)"


def _content() -> str:
    """A text, or a list of texts."""
    return (
        "{%- if message['content'] is string -%}{{- message['content'] -}}{%- elif message['content'] -%}"
        "{%- for item in message['content'] -%}{{- item['text'] -}}{%- endfor -%}{%- endif -%}"
    )


def _answer(template: Template) -> str:
    think, call = template.parts.get("think"), template.parts.get("toolcall")
    thought = _shown(think.open) + "{{- message['reasoning_content'] -}}" + _closed(think) if think else _refusal("it")
    function = "{%- set function = call['function'] if call['function'] is defined else call -%}"
    arguments = "(function['arguments'] if function['arguments'] is string else function['arguments'] | tojson)"
    spelled_out = f"'{{\"name\": ' + function['name'] | tojson + ', \"arguments\": ' + {arguments} + '}}'"
    called = function + _shown(call.open) + f"{{{{- {spelled_out} -}}}}" + _closed(call) if call else _refusal("it")
    return (
        "{%- if message['reasoning_content'] is string -%}"
        + thought
        + "{%- endif -%}"
        + _content()
        + "{%- for call in message['tool_calls'] or [] -%}"
        + called
        + "{%- endfor -%}"
    )


def _refusal(what: str) -> str:
    return f"{{{{- raise_exception('the template has no place for {what}') -}}}}"
