"""Which template, and what lays conversations out by it?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field

from mypt_dist.chat.foreign import JinjaRenderer, JinjaTemplate
from mypt_dist.chat.kinds import KindWeights
from mypt_dist.chat.render import Renderer
from mypt_dist.chat.template import TEMPLATES, Template
from mypt_dist.config import read_json
from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers import Tokenizer

AnyTemplate: TypeAlias = Annotated[Template | JinjaTemplate, Field(discriminator="format")]
"""Of ours, or of another program."""
AnyRenderer: TypeAlias = Renderer | JinjaRenderer


def named_template(named: str, *, stop: str | None = None, control: Sequence[str] = ()) -> Template | JinjaTemplate:
    """A shipped template by name; a JSON file of ours; a file of Jinja; or a model's ``tokenizer_config.json``.

    ``stop`` and ``control``: see `JinjaTemplate`. Raises `ConfigError`.
    """
    path = Path(named)
    if named not in TEMPLATES and path.is_file() and _is_foreign(path):
        return JinjaTemplate.read(path, stop=stop, control=control)
    if stop is not None or control:
        raise ConfigError(f"--stop and --control are for Jinja of other programs: {named} says itself what it needs")
    return Template.read(named)


def renderer_for(
    tokenizer: Tokenizer, template: Template | JinjaTemplate, weights: KindWeights | None = None
) -> AnyRenderer:
    """Raises `ConfigError` where the tokenizer lacks a control token that the template needs."""
    if isinstance(template, JinjaTemplate):
        return JinjaRenderer(tokenizer, template, weights)
    return Renderer(tokenizer, template, weights)


def _is_foreign(path: Path) -> bool:
    if path.suffix != ".json":
        return True
    raw = read_json(path)
    return isinstance(raw, dict) and "chat_template" in raw
