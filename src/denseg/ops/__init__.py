# SPDX-License-Identifier: Apache-2.0
"""Pure tensor functions: no parameters, no state."""

from __future__ import annotations

from denseg.ops.confusion import confusion_counts
from denseg.ops.pad import center_crop, pad_at_least, pad_to_multiple, reflect_pad
from denseg.ops.resize import resize

__all__ = ["center_crop", "confusion_counts", "pad_at_least", "pad_to_multiple", "reflect_pad", "resize"]
