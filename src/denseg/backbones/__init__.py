# SPDX-License-Identifier: Apache-2.0
"""Backbones: an image becomes a pyramid of feature maps, each described by a ``FeatureSpec``."""

from __future__ import annotations

from denseg.backbones.backbone import Backbone
from denseg.backbones.create import backbone_names, create_backbone

__all__ = ["Backbone", "backbone_names", "create_backbone"]
