"""No user, password or token of a tracking URI gets out, however it is written."""

from __future__ import annotations

import pytest

from autoprune.config.credentials import are_masked, mask, redact, usable_uri, without_login
from autoprune.errors import UserError


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("https://me:secret@host:5000/x", "https://***@host:5000/x"),
        ("https://secret@host", "https://***@host"),
        ("https://me:se/cr@et@host", "https://***@host"),
        ("postgresql+psycopg://me:secret@h/db?password=secret&x=1", "postgresql+psycopg://***@h/db?password=***&x=1"),
        ("postgresql:///db?host=h&user=me&p%61ssword=secret", "postgresql:///db?host=h&user=***&p%61ssword=***"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=***"),
        ("https://host/?access_token=secret", "https://host/?access_token=***"),
        ("https://host:5000", "https://host:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_credentials_are_masked_and_nothing_else(uri: str, masked: str) -> None:
    assert mask(uri) == masked
    assert mask(masked) == masked
    assert are_masked(masked) == (uri != masked)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("https://me:secret@host", "no route to https://me:secret@host/api"),
        ("mysql://root:secret@host/db", "Access denied for user 'root'@'host' (using secret)"),
        ("postgresql://me:s%20e%2Fc@host/db", "password 's e/c' of me, quoted s%20e%2Fc"),
        ("postgresql://h/db?user=me&password=s%26ec", "me failed with s&ec"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret", "login of me failed; UID=me;PWD=secret"),
        (None, "option --tracking-ur=https://me:secret@host is unknown"),
    ],
)
def test_what_is_said_of_a_store_holds_no_credentials(uri: str | None, said: str) -> None:
    found = redact(said, uri)
    for secret in ("secret", "root", "s e/c", "s%20e", "s&ec", " me ", "=me"):
        assert secret not in found, found
    assert "***" in found


def test_short_names_leave_words_whole_and_local_paths_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redact("some message of me", "https://me:pw@host") == "some message of ***"
    assert redact("no store at sqlite:////home/me@work/mlflow.db") == "no store at sqlite:////home/me@work/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    assert redact("401: hush") == "401: ***"


def test_an_address_for_the_browser_has_no_login() -> None:
    assert without_login("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert without_login("http://host") == "http://host"


def test_a_masked_uri_asks_for_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="--tracking-uri or set MLFLOW_TRACKING_URI"):
        usable_uri("https://***@host")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host")
    assert usable_uri("https://***@host") is None
    assert usable_uri("https://me:pw@host") == "https://me:pw@host"
