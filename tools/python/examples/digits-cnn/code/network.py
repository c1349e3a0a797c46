"""A small convolutional network, and training it for some epochs."""

from __future__ import annotations

import torch
from digits import Images, Labels
from torch import nn

BATCH = 32


def network() -> nn.Module:
    """Takes images of shape (rows, 1, 8, 8), gives scores of shape (rows, 10)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def tensors(images: Images, labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of shape (rows, 1, 8, 8) and labels of shape (rows,)."""
    return torch.from_numpy(images).reshape(-1, 1, 8, 8), torch.from_numpy(labels)


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, seed: int) -> int:
    """Trains, and gives the number of steps."""
    shuffle = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    steps = 0
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=shuffle).split(BATCH):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimiser.step()
            steps += 1
    return steps


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images whose digit is found."""
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())
