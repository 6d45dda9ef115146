"""The networks behind the sample models, in plain PyTorch."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class MLP(nn.Module):
    """Three dense layers with ReLU between them, on 12 numbers."""

    input_shape = (12,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 16)
        self.fc3 = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map 12 numbers to 4."""
        hidden: Tensor = functional.relu(self.fc1(x))
        out: Tensor = self.fc3(functional.relu(self.fc2(hidden)))
        return out


class ChainCNN(nn.Module):
    """Convolutions of every sort in a row: strided, grouped, dilated, then a dense layer."""

    input_shape = (3, 12, 12)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4)
        self.conv3 = nn.Conv2d(12, 6, 3, padding=2, dilation=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fc = nn.Linear(54, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image to 5 scores."""
        x = functional.relu(self.conv1(x))
        x = functional.leaky_relu(self.conv2(x), 0.1)
        x = self.pool(torch.tanh(self.conv3(x)))
        out: Tensor = self.fc(torch.flatten(x, 1))
        return out


class Block(nn.Module):
    """A residual block: two convolutions with batch norm beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions find to the shortcut."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(x + self.bn2(self.conv2(inner)))


class ResidualNet(nn.Module):
    """A stem, two residual blocks, global average pooling and a dense layer."""

    input_shape = (2, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.block1 = Block(6)
        self.block2 = Block(6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image to 3 scores."""
        x = self.block2(self.block1(functional.relu(self.stem(x))))
        out: Tensor = self.fc(x.mean(dim=(2, 3)))
        return out


class Attention(nn.Module):
    """One head of self-attention, spelled out, between two dense layers."""

    input_shape = (5, 8)

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Mix 5 tokens of 8 numbers."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 8**0.5
        mixed: Tensor = self.out(torch.softmax(scores, dim=-1) @ self.value(x))
        return mixed


def sequential() -> nn.Sequential:
    """Make a plain Sequential with a transposed convolution, on 2x6x6 images."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
        nn.Sigmoid(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(108, 4),
    )


SEQUENTIAL_SHAPE = (2, 6, 6)
