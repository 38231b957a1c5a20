#!/usr/bin/env bash
# Makes a virtual environment, or completes one:
#   experiments/peers/environment.sh DIR [zoo|torch-pruning]
# zoo (the default): autoprune with what its tests need, and the libraries of networks that tests/zoo takes its matrix from.
# torch-pruning: Torch-Pruning and the same libraries, without autoprune.
set -euo pipefail
directory=$1 kind=${2:-zoo}
root=$(cd "$(dirname "$0")/../.." && pwd)
peers=$root/experiments/peers

[ -x "$directory/bin/python" ] || python3 -m venv "$directory"
install() { "$directory/bin/python" -m pip install -q "$@"; }
case $kind in
    zoo) install -c "$root/constraints.txt" -e "$root[test]" ;;
    torch-pruning)
        install -c "$root/constraints.txt" anyio filelock fsspec h11 matplotlib numpy \
            packaging pillow pyyaml requests rich torch tqdm
        install --no-deps -r "$peers/torch_pruning.txt"
        ;;
    *) echo "environment.sh DIR [zoo|torch-pruning], not $kind" >&2 && exit 2 ;;
esac
# Without their dependencies: those would bring other builds of torch and OpenCV, and much that no network needs.
install --no-deps -r "$peers/zoo.txt"
