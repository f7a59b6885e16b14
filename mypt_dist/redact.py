"""What is left of a text when the secrets in it are taken out? Secrets are what URLs carry, and what the environment
keeps under a name such as ``…_TOKEN``."""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

SECRET = "[secret]"
MIN_LENGTH = 8
"""Shorter values are no secrets, and would be found in every other word."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_USER_IN_PATH = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*:/)[^\s'\"<>/@]+@")
"""A path made of a URL has lost one of its slashes."""
_KIND = r"password|passwd|secret|token|credentials?|api_?key|access_?key|private_?key|_key"
_ASSIGNED = re.compile(rf"((?:{_KIND})=)[^\s&'\",;]+", re.IGNORECASE)
_SECRET_NAME = re.compile(rf"({_KIND})$", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a variable or parameter of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """Values of variables with names of secrets, the longest first, so that none hides within another."""
    found = {value for name, value in environ.items() if is_secret_name(name) and len(value) >= MIN_LENGTH}
    return sorted(found, key=lambda value: (-len(value), value))


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
    """``text`` with every URL in it stripped of its secrets, and without those of this process's environment."""
    text = _URL_IN_TEXT.sub(lambda match: without_secrets(match[0]), text)
    text = _ASSIGNED.sub(rf"\1{SECRET}", _USER_IN_PATH.sub(r"\1", text))
    for secret in secrets_of(os.environ):
        text = text.replace(secret, SECRET)
    return text


def without_url_secrets(value: Any) -> Any:
    """A JSON value in which every string has lost its secrets, keys included."""
    if isinstance(value, str):
        return scrub(without_secrets(value))
    if isinstance(value, dict):
        return {without_url_secrets(key): without_url_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_url_secrets(item) for item in value]
    return value
