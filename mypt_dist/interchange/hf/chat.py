"""How do conversations look to a model of ours? Said to transformers as a Jinja template."""

from collections.abc import Collection

from mypt_dist.chat import AnyTemplate, Template
from mypt_dist.chat.jinja import chat_template_jinja


def chat_template(template: AnyTemplate, specials: Collection[str]) -> str | None:
    """``template`` in Jinja, or None for a tokenizer without the control tokens it is made of."""
    if not set(template.tokens()) <= set(specials):
        return None
    return chat_template_jinja(template) if isinstance(template, Template) else template.source
