"""A Ray of autoprune's own serves this machine alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journeys import fresh_process

PROGRAM = """
import json, os, pathlib
import ray
from autoprune.config.sections import RunSection
from autoprune.running.execution.ray_tune import connected

def descendants():
    parents = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found, more = set(), {os.getpid()}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in more} - found
    return found

def listening(processes):
    inodes = set()
    for process in processes:
        for file in pathlib.Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(os.readlink(file))
            except OSError:
                continue
    lines = [l.split() for n in ("tcp", "tcp6") for l in pathlib.Path(f"/proc/net/{n}").read_text().splitlines()[1:]]
    return sorted({l[1].partition(":")[0] for l in lines if l[3] == "0A" and f"socket:[{l[9]}]" in inodes})

def commands(processes):
    return [pathlib.Path(f"/proc/{process}/cmdline").read_text().replace(chr(0), " ") for process in processes]

with connected(RunSection(workers=1)):
    token = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote())
    processes = descendants()
    print(json.dumps({"listening": listening(processes), "token": token, "commands": commands(processes)}))
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables of sockets")
def test_it_listens_on_loopback_with_a_token_that_is_in_no_file(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["listening"]
    assert set(found["listening"]) <= LOOPBACK
    assert len(found["token"]) == 64
    assert not any(found["token"] in command or "dashboard.py" in command for command in found["commands"])
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name == "auth_token"] == []


AFTER_ANOTHER = """
import ray
from autoprune.config.sections import RunSection
from autoprune.running.execution.ray_tune import connected

ray.init("local", num_cpus=1, include_dashboard=False)
ray.shutdown()
with connected(RunSection(workers=1)):
    print(ray.get(ray.remote(lambda: "done").remote()))
"""


@pytest.mark.slow
def test_it_starts_in_a_process_that_has_had_another_one(tmp_path: Path) -> None:
    assert "done" in fresh_process(AFTER_ANOTHER, tmp_path)
