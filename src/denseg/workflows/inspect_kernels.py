# SPDX-License-Identifier: Apache-2.0
"""``denseg inspect --kernels``: the mean weight per tap of a network's square kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from denseg.models.kernels import KernelMean, kernel_means

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KernelReport", "inspect_kernels"]


class KernelReport:
    """Mean kernels as text and JSON.

    Attributes:
        means: One entry per size of kernel.
    """

    key = "kernels"

    def __init__(self, means: Sequence[KernelMean]) -> None:
        """Keep the means.

        Args:
            means: One entry per size of kernel.
        """
        self.means = tuple(means)

    def to_json(self) -> list[dict[str, Any]]:
        """Give the means as JSON values."""
        return [
            {
                "size": mean.size,
                "layers": mean.layers,
                "weights": mean.weights.round(6).tolist(),
                "skeleton": mean.skeleton,
                "rest": mean.rest,
                "corners": mean.corners,
            }
            for mean in self.means
        ]

    def lines(self) -> list[str]:
        """Give the means as text for a person."""
        if not self.means:
            return ["", "kernels        none of odd side 3 or more"]
        lines = []
        for mean in self.means:
            side = f"{mean.size}x{mean.size}"
            lines += [
                "",
                f"kernels {side:<7}mean magnitude per tap over {mean.layers} layers, the largest of each is 1",
            ]
            lines += ["               " + "  ".join(f"{value:.2f}" for value in row) for row in mean.weights]
            lines.append(
                f"               skeleton (middle row and column) {mean.skeleton:.3f}, the rest {mean.rest:.3f}, "
                f"corners {mean.corners:.3f}"
            )
        return lines


def inspect_kernels(network: nn.Module) -> KernelReport:
    """Average the kernels of a network.

    Args:
        network: With values: trained, or as drawn.

    Returns:
        The report.
    """
    return KernelReport(kernel_means(network))
