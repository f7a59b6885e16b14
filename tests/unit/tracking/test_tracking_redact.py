"""No secret that a URL carries is left anywhere."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mypt_dist.tracking.redact import scrub, without_secrets, without_url_secrets


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("https://me:canary@host:5000/path?token=canary#canary", "https://host:5000/path"),
        ("postgresql://u:canary@db/mlflow?password=canary", "postgresql://db/mlflow"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("sqlite:///mlflow.db?mode=rw", "sqlite:///mlflow.db"),
        ("http://u:c@n:a@host/", "http://host/"),
        ("http://[broken/canary", "http://"),
        ("http://host", "http://host"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("databricks", "databricks"),
        ("see http://a/b?c=d", "see http://a/b?c=d"),
        ("", ""),
    ],
)
def test_a_url_keeps_only_what_is_no_secret(url: str, left: str) -> None:
    assert without_secrets(url) == left


def test_urls_inside_a_message_are_cleaned() -> None:
    message = "request to https://me:canary@host/api?key=canary failed: 'http://x:canary@y' (mail a@b.c)"
    assert scrub(message) == "request to https://host/api failed: 'http://y' (mail a@b.c)"


def test_urls_inside_json_are_cleaned() -> None:
    value = {"a": ["http://u:canary@h", ("ftp://canary@h",)], "b": {"c": "x?y=z"}, "d": 1}
    assert without_url_secrets(value) == {"a": ["http://h", ["ftp://h"]], "b": {"c": "x?y=z"}, "d": 1}


@settings(deadline=None)
@given(password=st.text(alphabet="aZ0-._~%:@!$&'()*+,;=[]"))
def test_no_password_survives(password: str) -> None:
    assert without_secrets(f"http://me:canary{password}@host/path") in ("http://host/path", "http://")


@settings(deadline=None)
@given(text=st.text())
def test_any_text_can_be_cleaned(text: str) -> None:
    assert "canary" not in scrub(f"{text} http://me:canary@host/")
