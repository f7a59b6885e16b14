"""How do conversations look to a model of ours? The one place that says it to transformers, as a Jinja template.

``<|system|>…<|/system|><|user|>…<|/user|><|assistant|>…<|/assistant|><|endofturn|>``, and so on with the next turn.
"""

from collections.abc import Collection

from mypt_dist.tokenizers import END_OF_TURN
from mypt_dist.tokenizers.special import SECTIONS

ROLES = {
    "system": "system",
    "user": "user",
    "context": "context",
    "assistant": "assistant",
    "tool": "toolresult",
}
"""Role of a message, as chat programs say it -> section."""


def chat_template(specials: Collection[str]) -> str | None:
    """The template, or None for a tokenizer without the control tokens it is made of."""
    needed = {END_OF_TURN, *(name for section in ROLES.values() for name in (f"<|{section}|>", f"<|/{section}|>"))}
    assert set(ROLES.values()) <= set(SECTIONS)
    return _TEMPLATE if needed <= set(specials) else None


_SECTIONS = ", ".join(f"'{role}': '{section}'" for role, section in ROLES.items())
_TEMPLATE = (
    f"{{%- set sections = {{{_SECTIONS}}} -%}}\n"
    "{%- for message in messages -%}\n"
    "{%- if message['role'] not in sections -%}\n"
    "{{- raise_exception('no message has the role ' ~ message['role'] ~ ', known: ' ~ sections | join(', ')) -}}\n"
    "{%- endif -%}\n"
    "{%- set section = sections[message['role']] -%}\n"
    "{{- '<|' ~ section ~ '|>' ~ message['content'] ~ '<|/' ~ section ~ '|>' -}}\n"
    f"{{%- if section == 'assistant' -%}}{{{{- '{END_OF_TURN}' -}}}}{{%- endif -%}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}\n"
)
