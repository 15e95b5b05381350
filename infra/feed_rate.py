"""How many patches a second a GPU can train on, and how many the feed gives: what keeps a GPU waiting, computed from the network's operations.

    python infra/feed_rate.py [--architecture vgg4-dropout-bn] [--width 32] [--size 256] [--feed 10000]

Nothing is run. A GPU's need is its peak rate in mixed precision over the operations of a training step, twice those of a forward pass more; no network
reaches the peak (a third to a half is usual for convolutions, and one with few filters at full resolution waits for memory), so that is the most it can ask for. `--feed` is what
tests/benchmarks/feed.py measured on two cores; its work goes on in TensorStore's threads, but each batch goes through one Python thread.
"""

import argparse
from typing import Any, get_args

import keras

from mammo_model.architectures import build_network
from mammo_model.settings import ArchitectureName, TrainingSettings

PEAKS = {
    # Turing whitepaper (NVIDIA 2018), GeForce RTX 2080 Founders Edition: tensor cores, FP16 with FP32 accumulation.
    "RTX 2080": 42.4e12,
    # A100 datasheet (NVIDIA 2021), dense.
    "A100": 312e12,
    # H200 SXM datasheet (NVIDIA 2024): 1,979 with sparsity.
    "H200": 989e12,
}
"""Operations a second in mixed precision."""

SHARES = (1.0, 0.4)
"""Of the peak: all of it, and what a well-fed convolutional network may reach (assumed)."""


def forward_operations(network: Any) -> int:
    """Multiplications and additions of a patch's way through the network's convolutions and dense layers, which are nearly all there is."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, rows, columns, filters = layer.output.shape
            height, width = layer.kernel_size
            total += 2 * rows * columns * filters * height * width * layer.input.shape[-1]
        elif isinstance(layer, keras.layers.Dense):
            total += 2 * layer.input.shape[-1] * layer.units
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=get_args(ArchitectureName), default="vgg4-dropout-bn")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--feed", type=float, default=10_000)
    arguments = parser.parse_args()
    settings = TrainingSettings(architecture=arguments.architecture, width=arguments.width)
    forward = forward_operations(build_network(arguments.size, settings))
    print(
        f"{arguments.architecture}, width {arguments.width}, patches of {arguments.size}: {forward / 1e9:.2f} GFLOP forward, "
        f"{3 * forward / 1e9:.1f} in training; the feed gives {arguments.feed:,.0f} patches/s\n"
    )
    heads = " | ".join(f"patches/s at {share:.0%} of it | feed / need" for share in SHARES)
    print(f"| GPU | peak, TFLOP/s | {heads} |\n|---|---|{'---|---|' * len(SHARES)}")
    for name, peak in PEAKS.items():
        needs = [share * peak / (3 * forward) for share in SHARES]
        cells = " | ".join(f"{need:,.0f} | {arguments.feed / need:.1f}" for need in needs)
        print(f"| {name} | {peak / 1e12:.0f} | {cells} |")


if __name__ == "__main__":
    main()
