"""Takes user names, passwords and tokens out of a tracking URI."""

from __future__ import annotations

import re

_MASK = "***"
_LOCAL = ("sqlite:", "file:")
_SECRET = re.compile(r"(?i)([?&][^=&]*(?:password|passwd|pwd|token|secret|key)[^=&]*=)[^&#]*")


def mask(uri: str) -> str:
    """The URI with `***` for whatever may be a credential; a local path may hold an `@` and is left as it is."""
    if uri.lower().startswith(_LOCAL):
        return uri
    scheme, separator, rest = uri.partition("://")
    _, at, host = rest.rpartition("@")  # the last one: a password typed without quoting may hold an @ or a /
    hidden = f"{scheme}{separator}{_MASK}@{host}" if at else uri
    return _SECRET.sub(rf"\g<1>{_MASK}", hidden)


def are_masked(uri: str) -> bool:
    """Whether `mask` took something out of the URI."""
    return f"://{_MASK}@" in uri or bool(re.search(rf"[?&][^=&]*={re.escape(_MASK)}", uri))
