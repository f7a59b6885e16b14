"""Reference pages of what users write, made from the schemas themselves so that they cannot be out of date."""

from collections.abc import Iterator
from typing import Any

from mypt_dist.run.schema import What, json_schema

RUN_FILE = """# Run file

Every key, its type and its default, from the schema itself (`mypt schema run`). A file may leave out what it
`extends`; it is JSON, or YAML. Unknown keys are refused. Sections that have a `type` are chosen by it.
"""
SOURCES_FILE = """# Sources file

Every key, its type and its default, from the schema itself (`mypt schema sources`). The file is JSON; unknown keys are
refused. A file of MyPT is read as it is. How to use one: [fetch data](../how-to/fetch-data.md).

Where a source has no `format`, the ending of a file's name says what it is. Text: `.txt .text .md .markdown .rst` and
the usual endings of code; JSON lines: `.jsonl .ndjson`; a table: `.parquet`, of which the column `text` is read. For
`.tsv` the `format` must say which column.
"""


def run_file_page() -> str:
    """Markdown."""
    return _page("run", RUN_FILE)


def sources_file_page() -> str:
    """Markdown."""
    return _page("sources", SOURCES_FILE)


def _page(what: What, introduction: str) -> str:
    schema = json_schema(what)
    parts = [introduction]
    for title, section in _sections(schema, schema["$defs"]):
        kind = section["properties"].get("type", {}).get("const")
        chosen = f"`type: {kind}`. " if kind else ""
        parts.append(f"\n## {title}\n\n{chosen}{section.get('description', '')}\n".replace("\n\n\n", "\n\n"))
        parts.append("\n| key | type | default | |\n|---|---|---|---|\n")
        parts += [_row(name, field, schema["$defs"]) for name, field in section["properties"].items()]
    return "".join(parts)


def _sections(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "Top level", schema
    yield from sorted(definitions.items())


def _row(name: str, field: dict[str, Any], definitions: dict[str, Any]) -> str:
    text = " ".join(str(field.get("description", "")).split()).replace("|", "\\|")
    default = f"`{_default(field['default'])}`" if "default" in field else ""
    return f"| `{name}` | {_type(field)} | {default} | {text} |\n"


def _default(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else "…"


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_type(option) for option in field[key]))
    if "enum" in field:
        return " or ".join(f"`{option}`" for option in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " and ".join(f"{sign} {field[key]:g}" for key, sign in bounds.items() if key in field)
    return f"{field.get('type', 'any')} {limits}".strip()
