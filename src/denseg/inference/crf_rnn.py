# SPDX-License-Identifier: Apache-2.0
"""CRF as RNN: mean-field inference as a layer whose weights are learned with the network.

Paper:
    S. Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015.
    https://arxiv.org/abs/1502.03240 - Sections 4 and 5, Algorithm 1.
Reference code:
    https://github.com/torrvision/crfasrnn (not copied): one weight per class and kernel, a full compatibility matrix
    that starts as -1 on the diagonal, messages divided by the mass of the kernel, 5 iterations in training and 10 in
    use.
Departures from the paper:
    The lattice is built on the CPU and its filter runs where the scores are; standard deviations are fixed, as there.
Cost:
    Linear in pixels, classes and iterations.

Shape letters: B batch, K classes, C bands, H and W image height and width, N = H * W pixels, M lattice vertices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError
from denseg.inference.crf import CRFParameters, crf_features, find_crf
from denseg.inference.mean_field import Kernel, Normalizer, make_kernel

__all__ = ["CRFasRNN"]


class CRFasRNN(nn.Module):
    """Mean-field inference with learned weights; the output is scores again.

    Attributes:
        smoothness: ``(K,)``, weight of the smoothness kernel for each class.
        appearance: ``(K,)``, weight of the appearance kernel for each class.
        compatibility: ``(K, K)``, what a message about one class (column) adds to the cost of another (row).
        parameters_of: Standard deviations, and the weights that were the start.
    """

    smoothness: nn.Parameter
    appearance: nn.Parameter
    compatibility: nn.Parameter

    def __init__(
        self,
        num_classes: int,
        preset: str | CRFParameters = "crf_rnn",
        *,
        training_iterations: int = 5,
        iterations: int | None = None,
        normalize: Normalizer = "after",
    ) -> None:
        """Create the weights.

        Args:
            num_classes: K.
            preset: Standard deviations, first weights and iterations; a name in ``CRF_PRESETS`` or parameters.
            training_iterations: Mean-field updates in training mode; the paper's 5.
            iterations: In evaluation mode; the preset's if ``None`` (the paper's 10).
            normalize: How each kernel is normalised: ``after``, ``before``, ``symmetric`` (as ``dense_crf``) or
                ``global``.
        """
        super().__init__()
        start = find_crf(preset)
        self.num_classes = num_classes
        self.parameters_of = start
        self.training_iterations = training_iterations
        self.iterations = start.iterations if iterations is None else iterations
        self.normalize: Normalizer = normalize
        self.smoothness = nn.Parameter(torch.full((num_classes,), float(start.smoothness)))
        self.appearance = nn.Parameter(torch.full((num_classes,), float(start.appearance)))
        self.compatibility = nn.Parameter(-torch.eye(num_classes))

    def forward(self, logits: Tensor, images: Tensor) -> Tensor:
        """Refine scores.

        Args:
            logits: ``(B, K, H, W)``.
            images: ``(B, C, H, W)``, values of 0..255, not normalised; no gradient flows to them.

        Returns:
            ``(B, K, H, W)`` scores; their softmax is the result of mean-field inference.

        Raises:
            ShapeError: The shapes do not fit each other or the number of classes.
        """
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ShapeError(f"logits must be (B, {self.num_classes}, H, W), got {tuple(logits.shape)}")
        if images.ndim != 4 or images.shape[0] != len(logits) or images.shape[2:] != logits.shape[2:]:
            raise ShapeError(
                f"images must be (B, C, H, W) of the same B, H and W as logits {tuple(logits.shape)}, "
                f"got {tuple(images.shape)}"
            )
        return torch.stack([self._refine(scores, image) for scores, image in zip(logits, images, strict=True)])

    def _refine(self, logits: Tensor, image: Tensor) -> Tensor:
        height, width = logits.shape[1:]
        features = crf_features(image.detach().movedim(0, -1).cpu().numpy(), (height, width), self.parameters_of)
        appearance, smoothness = (
            _Filter.of(make_kernel(values, normalize=self.normalize), logits) for values in features
        )
        unary = logits.flatten(1).t()  # (N, K)
        scores = unary
        for _ in range(self.training_iterations if self.training else self.iterations):
            beliefs = scores.softmax(dim=1)  # (N, K)
            message = self.smoothness * smoothness.apply(beliefs) + self.appearance * appearance.apply(beliefs)
            scores = unary - message @ self.compatibility.t()  # (N, K)
        return scores.t().view(-1, height, width)  # (K, H, W)


class _Filter(NamedTuple):
    """A kernel as tensors: splat, blur and slice are weighted sums of rows."""

    points: Tensor
    starts: Tensor
    masses: Tensor
    triples: Tensor
    thirds: Tensor
    vertices: Tensor
    weights: Tensor

    @classmethod
    def of(cls, kernel: Kernel, like: Tensor) -> _Filter:
        lattice = kernel.lattice
        own = np.arange(lattice.size, dtype=np.int32)
        triples = np.stack([np.stack([own, *side.T], axis=1) for side in lattice.neighbours])  # (d + 1, M, 3)

        def real(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(like)

        def whole(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.int64)).to(like.device)

        return cls(
            whole(lattice.points),
            whole(lattice.starts[:-1]),
            real(lattice.masses * kernel.before[lattice.points]),
            whole(triples),
            like.new_tensor([1.0, 0.5, 0.5]).expand(lattice.size, 3).contiguous(),
            whole(lattice.vertices),
            real(lattice.weights * kernel.after[:, None]),
        )

    def apply(self, values: Tensor) -> Tensor:
        """Filter ``(N, K)``."""
        table = F.embedding_bag(self.points, values, self.starts, mode="sum", per_sample_weights=self.masses)  # (M, K)
        nothing = table.new_zeros((1, table.shape[1]))
        for triples in self.triples:
            padded = torch.cat([table, nothing])  # (M + 1, K)
            table = F.embedding_bag(triples, padded, mode="sum", per_sample_weights=self.thirds)  # (M, K)
        return F.embedding_bag(
            self.vertices, torch.cat([table, nothing]), mode="sum", per_sample_weights=self.weights
        )  # (N, K)
