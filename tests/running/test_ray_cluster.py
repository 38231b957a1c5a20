"""A cluster of two nodes: both are used, and the loss of one costs no trial."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.journeys import Cli, history_of
from tests.repository import REPOSITORY

SEARCH = ("search", "--budget", "flops=0.6", "--trials", "24", "--searcher", "random", "--set", "space.protect=[]")
SLOW_TASK = ("--task", "tests.accidents:unhurried", "--set", "track.enabled=false", "--output", "run")


def parent(process: int) -> int:
    """The process that started another: of a worker, its node's raylet."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


class Watcher(threading.Thread):
    """Notes which raylet each worker belongs to; after some trials of both it takes a node away."""

    def __init__(self, cluster: Cluster, run: Path) -> None:
        super().__init__(daemon=True)
        self.cluster, self.run_folder = cluster, run
        self.raylets: dict[str, int] = {}
        self.done_before = 0

    def run(self) -> None:
        while len(set(self.raylets.values())) < 2 or self.done_before < 6:
            time.sleep(0.2)
            if (self.run_folder / "ledger.jsonl").exists():
                trials = history_of(self.run_folder).trials()
                self.done_before = len(trials)
                for worker in {trial.worker for trial in trials} - set(self.raylets):
                    self.raylets[worker] = parent(int(worker.rpartition(":")[2]))
        self.cluster.remove_node(self.cluster.worker_nodes.copy().pop(), allow_graceful=False)


@pytest.mark.slow
def test_both_nodes_are_used_and_the_loss_of_one_costs_no_trial(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        watcher = Watcher(cluster, workdir / "run")
        watcher.start()
        autoprune.succeed(*SEARCH, *SLOW_TASK, "--workers", "2", "--ray-address", cluster.address)
        watcher.join(timeout=5)
    finally:
        cluster.shutdown()
    trials = history_of(workdir / "run").trials()
    assert sorted(trial.number for trial in trials) == list(range(24))
    assert all(trial.score for trial in trials)
    assert len(set(watcher.raylets.values())) == 2, [(trial.worker, trial.seconds) for trial in trials]
    assert 6 <= watcher.done_before < 24
    assert os.getpid() not in watcher.raylets.values()
