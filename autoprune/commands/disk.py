"""Tells a full disk from other trouble."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(fault: OSError) -> bool:
    """Whether there was no room to write: on the disk, in the user's quota or under a limit on the size of files."""
    return fault.errno in _FULL
