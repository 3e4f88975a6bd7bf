# SPDX-License-Identifier: Apache-2.0
"""Runs benchmarks and writes ``benchmarks/results``: ``python -m benchmarks.run [SUITE]…``."""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    against_albumentations,
    against_pillow,
    against_pydensecrf,
    against_torchmetrics,
    predict_folder,
    same_deeplab,
)
from benchmarks.against_smp import PEER, inference_cases, training_cases
from benchmarks.harness import interleave, write_results

__all__ = ["main"]

SUITES = {
    "training": (
        "smp_training",
        "Training step",
        "Forward, cross-entropy, backward and SGD on 2 images of 256x256, 21 classes.",
        training_cases,
    ),
    "inference": (
        "smp_inference",
        "Inference",
        "One image of 512x512 to labels, 21 classes.",
        inference_cases,
    ),
    "deeplab": (
        "smp_deeplab",
        "The same DeepLabV3+",
        "Image to labels, and forward, cross-entropy, backward and SGD; 21 classes, equal weights.",
        same_deeplab.cases,
    ),
    "check": (
        "pillow_check",
        "Check",
        "`denseg check` of a folder that was never seen, against decoding its files and nothing else.",
        against_pillow.check_cases,
    ),
    "loading": (
        "albumentations_loading",
        "Loading",
        "One epoch of training samples, later than the first.",
        against_albumentations.loading_cases,
    ),
    "folder": (
        "smp_folder",
        "Predict",
        "A folder of pictures to index PNGs, model loaded, decoding and encoding included.",
        predict_folder.folder_cases,
    ),
    "counts": (
        "torchmetrics_counts",
        "Confusion matrix",
        "One update with 4 label maps of 512x512.",
        against_torchmetrics.count_cases,
    ),
    "crf": (
        "pydensecrf",
        "Dense CRF",
        "Lattices and ten mean-field iterations; needs pydensecrf2.",
        against_pydensecrf.crf_cases,
    ),
}
PEERS = {
    "crf": against_pydensecrf.PEER,
    "check": against_pillow.PEER,
    "counts": against_torchmetrics.PEER,
    "loading": against_albumentations.PEER,
}


def main() -> int:
    """Run what the command line names.

    Returns:
        0 where every goal is reached, else 1.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], help="all of them where none is named")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    reached = True
    for name in options.suites or SUITES:
        file, title, about, cases = SUITES[name]
        results = []
        for case in cases():
            result = interleave(case, rounds=options.rounds)
            results.append(result)
            reached &= result.reached
            print(
                f"{title}: {result.name}: {result.ours:.3f} s against {result.peer:.3f} s, ratio {result.ratio:.3f} "
                f"({result.quartiles[0]:.3f}-{result.quartiles[1]:.3f})",
                flush=True,
            )
        for path in write_results(file, title, results, about=about, peer=PEERS.get(name, PEER)):
            print(path)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
