import json
import os
import re
import socket
import subprocess
import sys
import textwrap

import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.ledger import NAME, VERSION, Ledger, check_idle, read_history
from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.errors import LedgerWriteError, RunFolderError
from tests.scores import scored


def candidate(number):
    return Candidate(number, Allocation({"a": number + 1}))


def trial(number):
    return Trial(candidate(number), scored(0.5 + number, 0.9, 10), {"flops": 7}, 1.5)


def write_run(folder, told=2, asked=3):
    with Ledger(folder / NAME) as ledger:
        ledger.write("started", version=VERSION)
        for number in range(asked):
            ledger.asked(candidate(number))
            if number < told:
                ledger.told(trial(number))


def in_another_process(folder, code):
    script = textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", script, str(folder / NAME)], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_is_written_is_read_in_order(tmp_path):
    write_run(tmp_path)
    history = read_history(tmp_path)
    assert list(history.steps()) == [candidate(0), trial(0), candidate(1), trial(1), candidate(2)]
    assert history.trials() == [trial(0), trial(1)]
    assert history.open_candidates() == [candidate(2)]
    assert history.last("started")["version"] == VERSION
    assert history.last("finished") is None


def test_a_failure_is_read_as_a_failure(tmp_path):
    failed = Trial(candidate(0), Failure("out_of_memory", "8 GiB"))
    with Ledger(tmp_path / NAME) as ledger:
        ledger.asked(candidate(0))
        ledger.told(failed)
    assert read_history(tmp_path).trials() == [failed]


def test_a_last_line_torn_at_any_byte_costs_that_record_alone(tmp_path):
    write_run(tmp_path)
    path = tmp_path / NAME
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(read_history(tmp_path).steps()) == [candidate(0), trial(0), candidate(1), trial(1)]
        with Ledger(path) as ledger:
            ledger.asked(candidate(7))
        assert list(read_history(tmp_path).steps())[-2:] == [trial(1), candidate(7)]


def test_a_ledger_torn_in_its_first_line_starts_anew(tmp_path):
    (tmp_path / NAME).write_bytes(b'{"event": "star')
    assert read_history(tmp_path).records == []
    write_run(tmp_path)
    assert len(read_history(tmp_path).trials()) == 2


@pytest.mark.parametrize("damage", [b"garbage", b"[1, 2]", b'"event"', b"{}", b"\x00\x00", b"\xff\xfe", b""])
def test_damage_before_the_last_line_is_named_with_its_line(tmp_path, damage):
    write_run(tmp_path)
    lines = (tmp_path / NAME).read_bytes().split(b"\n")
    lines[2] = damage
    (tmp_path / NAME).write_bytes(b"\n".join(lines))
    with pytest.raises(RunFolderError, match="line 3 is damaged"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        {"event": "told", "number": 9, "score": {"loss": 1.0, "accuracy": 0.5, "samples": 3}},
        {"event": "told"},
        {"event": "asked", "number": 9},
        {"event": "asked", **candidate(9).to_json(), "widths": {"a": "x"}},
        {"event": "told", "number": 2, "score": {"loss": 1.0}, "costs": {}, "seconds": 1, "worker": "w"},
    ],
)
def test_a_record_that_lacks_what_it_must_hold_is_no_traceback(tmp_path, record):
    write_run(tmp_path)
    with open(tmp_path / NAME, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(RunFolderError, match="record 7 of the ledger"):
        list(read_history(tmp_path).steps())


def test_a_candidate_asked_twice_appears_once_and_a_trial_told_twice_counts_once(tmp_path):
    write_run(tmp_path)
    with Ledger(tmp_path / NAME) as ledger:
        ledger.asked(candidate(2))
        ledger.told(trial(2))
        ledger.told(Trial(candidate(2), scored(99.0, 0.0, 10)))
    history = read_history(tmp_path)
    assert [step.number for step in history.steps()] == [0, 0, 1, 1, 2, 2]
    assert history.trials()[-1] == trial(2)
    assert history.open_candidates() == []


def test_a_second_writer_in_the_same_process_is_refused(tmp_path):
    with Ledger(tmp_path / NAME), pytest.raises(RunFolderError, match="being written by another process"):
        Ledger(tmp_path / NAME)
    Ledger(tmp_path / NAME).close()


def test_the_writer_is_named_to_whom_it_keeps_out(tmp_path):
    named = rf"being written by process {os.getpid()} on {re.escape(socket.gethostname())} since \d{{4}}-"
    with Ledger(tmp_path / NAME) as ledger:
        ledger.begin()
        ledger.asked(candidate(0))
        for refused in (Ledger, check_idle):
            with pytest.raises(RunFolderError, match=named):
                refused(tmp_path / NAME)
    check_idle(tmp_path / NAME)
    Ledger(tmp_path / NAME).close()


def test_a_writer_that_its_release_did_not_name_keeps_others_out_all_the_same(tmp_path):
    with Ledger(tmp_path / NAME) as ledger:
        ledger.write("started", version=VERSION)
        with pytest.raises(RunFolderError, match="being written by another process"):
            check_idle(tmp_path / NAME)


OPEN = """
    import sys
    from pathlib import Path
    from autoprune.core.ledger import Ledger
    from autoprune.errors import AutopruneError
    try:
        Ledger(Path(sys.argv[1])).close()
    except AutopruneError as fault:
        print(type(fault).__name__, fault.exit_code)
    else:
        print("opened")
"""


def test_a_second_writer_in_another_process_is_refused_until_the_first_ends(tmp_path):
    with Ledger(tmp_path / NAME):
        assert in_another_process(tmp_path, OPEN).stdout.split() == ["RunFolderError", "2"]
    assert in_another_process(tmp_path, OPEN).stdout.split() == ["opened"]


def test_a_writer_that_was_killed_leaves_no_lock(tmp_path):
    killed = in_another_process(
        tmp_path,
        """
        import os, signal, sys
        from pathlib import Path
        from autoprune.core.ledger import Ledger
        ledger = Ledger(Path(sys.argv[1]))
        ledger.write("started", version=1)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert killed.returncode == -9
    with Ledger(tmp_path / NAME) as ledger:
        ledger.asked(candidate(0))
    assert [record["event"] for record in read_history(tmp_path).records] == ["started", "asked"]


FILL = """
    import resource, sys
    from pathlib import Path
    from autoprune.core.allocation import Allocation
    from autoprune.core.ledger import Ledger
    from autoprune.core.trial import Candidate
    from autoprune.errors import LedgerWriteError
    path = Path(sys.argv[1])
    ledger = Ledger(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + ROOM, resource.RLIM_INFINITY))
    number = 3
    try:
        while True:
            ledger.asked(Candidate(number, Allocation({"a": number + 1})))
            number += 1
    except LedgerWriteError as fault:
        print(number, fault.exit_code, "--resume" in str(fault))
"""


@pytest.mark.parametrize("slack", [0, 1, 100, 300, 1000])
def test_a_full_disk_leaves_a_ledger_that_reads_and_resumes(tmp_path, slack):
    """The kernel refuses to let the file grow, in the middle of a record, as a full disk does."""
    write_run(tmp_path)
    said = in_another_process(tmp_path, FILL.replace("ROOM", str(slack)))
    assert said.returncode == 0, said.stderr
    refused, code, resumable = said.stdout.split()
    assert (code, resumable) == ("1", "True")
    assert (tmp_path / NAME).read_bytes().endswith(b"\n")
    numbers = [open_one.number for open_one in read_history(tmp_path).open_candidates()]
    assert numbers == list(range(2, int(refused)))
    with Ledger(tmp_path / NAME) as ledger:
        ledger.told(trial(2))
    assert read_history(tmp_path).trials()[-1] == trial(2)


def test_a_write_that_fails_is_not_half_there_for_the_same_writer(tmp_path):
    said = in_another_process(
        tmp_path,
        """
        import resource, sys
        from pathlib import Path
        from autoprune.core.ledger import Ledger
        from autoprune.errors import LedgerWriteError
        ledger = Ledger(Path(sys.argv[1]))
        ledger.write("started", version=1)
        size = Path(sys.argv[1]).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
        try:
            ledger.write("lost", text="x" * 100)
        except LedgerWriteError:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            ledger.write("kept")
        """,
    )
    assert said.returncode == 0, said.stderr
    assert [record["event"] for record in read_history(tmp_path).records] == ["started", "kept"]


def test_a_folder_that_cannot_be_written_is_a_write_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LedgerWriteError, match="cannot be written"):
        Ledger(tmp_path / "file" / NAME)


@pytest.mark.parametrize("version", [VERSION + 1, "2", None])
@pytest.mark.parametrize("before", [0, 2])
def test_a_ledger_that_a_newer_release_wrote_or_resumed_is_refused(tmp_path, version, before):
    """An older one, without any version, is read."""
    records = [{"event": "started", "version": VERSION}, {"event": "dense"}][:before]
    records.append({"event": "resumed" if before else "started", "version": version})
    (tmp_path / NAME).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"version .* this release of autoprune reads up to .* release that wrote"):
        read_history(tmp_path)


def test_who_begins_says_whether_it_starts_or_resumes_and_in_which_version(tmp_path):
    for _ in range(2):
        with Ledger(tmp_path / NAME) as ledger:
            ledger.begin(more=1)
    records = read_history(tmp_path).records
    assert [record["event"] for record in records] == ["started", "resumed"]
    assert [record["version"] for record in records] == [VERSION, VERSION]
    assert [record["more"] for record in records] == [1, 1]


def test_a_folder_without_a_ledger_is_no_run(tmp_path):
    with pytest.raises(RunFolderError, match="is no run of autoprune"):
        read_history(tmp_path)


def test_nan_is_never_written(tmp_path):
    with Ledger(tmp_path / NAME) as ledger, pytest.raises(ValueError, match="Out of range float"):
        ledger.write("told", loss=float("nan"))
    assert read_history(tmp_path).records == []


@pytest.mark.parametrize("end", [b"", b"\r", b"  "])
def test_a_ledger_without_line_ends_is_refused_and_left_as_it_is(tmp_path, end):
    write_run(tmp_path)
    path = tmp_path / NAME
    damaged = path.read_bytes().replace(b"\n", end)
    path.write_bytes(damaged)
    for opened in (lambda: read_history(tmp_path), lambda: Ledger(path), lambda: Ledger(path)):
        with pytest.raises(RunFolderError, match="has lost line ends"):
            opened()
    assert path.read_bytes() == damaged


def test_a_writer_that_ended_long_ago_is_not_named(tmp_path):
    said = in_another_process(
        tmp_path,
        """
        import sys
        from pathlib import Path
        from autoprune.core.ledger import Ledger
        with Ledger(Path(sys.argv[1])) as ledger:
            ledger.begin()
        """,
    )
    assert said.returncode == 0, said.stderr
    with Ledger(tmp_path / NAME), pytest.raises(RunFolderError, match="being written by another process"):
        check_idle(tmp_path / NAME)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"event": ' + b"9" * 5000 + b"}"], ids=["nested", "digits"])
def test_a_line_made_to_exhaust_is_damage(tmp_path, line):
    write_run(tmp_path)
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes() + line + b"\n")
    with pytest.raises(RunFolderError, match="line 7 is damaged"):
        read_history(tmp_path)
