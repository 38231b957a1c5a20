"""Takes user names, passwords and tokens out of tracking URIs and out of what is said about them."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

from autoprune.errors import UserError

_MASK = "***"
_LOCAL = ("sqlite:", "file:")
_PARAMETER = re.compile(r"([?&])([^=&#]*)=([^&#]*)")
_SECRET_NAME = re.compile(r"(?i)user|uid|login|pass|pwd|token|secret|key|auth|cred|sig|odbc_connect")
_ASSIGNMENT = re.compile(r"(?i)(?:uid|user|pwd|password)=([^;&]*)")
_URI = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")


def mask(uri: str) -> str:
    """Returns the URI with `***` for each part that may be a credential; a local path, which may hold an `@`, stays."""
    if uri.lower().startswith(_LOCAL):
        return uri
    scheme, separator, rest = uri.partition("://")
    _, at, host = rest.rpartition("@")  # the last one: a password typed without quoting may hold an @ or a /
    hidden = f"{scheme}{separator}{_MASK}@{host}" if at else uri
    return _PARAMETER.sub(lambda found: f"{found[1]}{found[2]}={_MASK}" if _is_secret(found[2]) else found[0], hidden)


def are_masked(uri: str) -> bool:
    """Returns whether `mask` took something out of the URI."""
    return f"://{_MASK}@" in uri or bool(re.search(rf"[?&][^=&]*={re.escape(_MASK)}", uri))


def without_login(uri: str) -> str:
    """Returns an address without its user and password, for which a browser asks."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def usable_uri(uri: str | None) -> str | None:
    """Returns a stored tracking URI where it names a store, or None to leave the store to MLflow.

    Raises:
        UserError: it was stored without its credentials, and `MLFLOW_TRACKING_URI` does not give them.
    """
    if uri is None or not are_masked(uri):
        return uri
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    raise UserError(
        f"the credentials of the tracking URI {uri} are not stored with a run; "
        "give it again with --tracking-uri or set MLFLOW_TRACKING_URI"
    )


def redact(text: str, uri: str | None = None) -> str:
    """Returns a message with `***` for the credentials of every URI in it, and for those of `uri` and of MLflow's
    environment wherever they stand, quoted for a URI or not.
    """
    known = [os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD", "TOKEN")]
    for named in filter(None, (uri, os.environ.get("MLFLOW_TRACKING_URI"))):
        known += _secrets(named)
    forms = {form for secret in known for form in (secret, unquote(secret), quote(unquote(secret), safe=""))}
    for secret in sorted(forms - {"", _MASK}, key=len, reverse=True):  # a user's name may be a part of the password
        text = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", _MASK, text)
    return _URI.sub(lambda found: mask(found[0]), text)


def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(unquote(name)))


def _secrets(uri: str) -> list[str]:
    """Returns the user, the password and the secret parameters of a URI, as they are written in it."""
    if uri.lower().startswith(_LOCAL):
        return []
    login, at, _ = uri.partition("://")[2].rpartition("@")
    parameters = [value for _, name, value in _PARAMETER.findall(uri) if _is_secret(name)]
    inner = [each for value in parameters for each in _ASSIGNMENT.findall(unquote(value))]
    return [*([login, *login.split(":", 1)] if at else []), *parameters, *inner]
