"""A perceptron for scikit-learn's handwritten digits, and a function that trains it: what the searches here share."""

import torch
from sklearn.datasets import load_digits
from torch import nn

pixels, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
pixels = pixels.float() / 16


def train(network: nn.Module, rate: float, steps: int) -> float:
    """Trains on the first 1,200 samples; returns the loss on the others."""
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    for step in range(steps):
        batch = torch.arange(64 * step, 64 * step + 64) % 1200
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(network(pixels[1200:]), labels[1200:]))


torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
train(network, rate=0.1, steps=200)
