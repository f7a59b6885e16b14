"""What is left of a text when the secrets that URLs carry are taken out?"""

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def without_secrets(url: str) -> str:
    """``url`` without user, password, query and fragment. What is not a URL comes back as it is."""
    if not _URL.fullmatch(url):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://"
    return (
        urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        if parts.netloc
        else (f"{parts.scheme}://{parts.path}")
    )


def scrub(text: str) -> str:
    """``text`` with every URL in it stripped of its secrets."""
    return _URL_IN_TEXT.sub(lambda match: without_secrets(match[0]), text)


def without_url_secrets(value: Any) -> Any:
    """A JSON value in which every string that is a URL has lost its secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: without_url_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_url_secrets(item) for item in value]
    return value
