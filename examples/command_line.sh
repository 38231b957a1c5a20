#!/usr/bin/env bash
# From a trained network to a smaller one on the command line. The embedded example stands in for your own network;
# --task my_task:task --checkpoint my_weights.pt would name that.
set -euo pipefail

autoprune inspect
autoprune search --budget flops=0.5 --trials 10 --output run
autoprune report run --format html
autoprune apply run --output pruned.pt --reconstruct 512
autoprune evaluate pruned.pt --split test
