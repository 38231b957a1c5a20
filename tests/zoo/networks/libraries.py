"""Imports the libraries of networks so that they work beside a build of torch for the CPU."""

from __future__ import annotations

import importlib
import os
import tempfile
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

_SAMPLING = "Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio"
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_SAMPLING}, bool aligned) -> Tensor",
    "roi_pool(Tensor input, Tensor rois) -> (Tensor, Tensor)",
    "ps_roi_align(Tensor input, Tensor rois) -> (Tensor, Tensor)",
    "ps_roi_pool(Tensor input, Tensor rois) -> (Tensor, Tensor)",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset) -> Tensor",
)


@cache
def library(name: str) -> ModuleType:
    """Imports a library of networks, with no connection to the network.

    Raises:
        ImportError: it is not installed; says how.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
    os.environ.setdefault("YOLO_OFFLINE", "true")
    try:
        if torch.version.cuda is None:
            _complete_torchvision()
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error}; experiments/peers/environment.sh DIR installs the libraries of networks"
        ) from error


@cache
def _complete_torchvision() -> torch.library.Library:
    """Defines the operators that torchvision's wheel, built for CUDA, cannot load; returns what keeps them defined."""
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _OPERATORS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):  # another test may have declared some
            operators.define(schema)
    operators.impl("nms", _nms, "CPU")
    boxes = importlib.import_module("torchvision.ops.boxes")
    boxes._assert_has_ops = lambda: None  # it asks for the compiled extension
    return operators


def _nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Returns the indices of the boxes `[boxes, 4]` that overlap with no better one, the best first."""
    order = scores.argsort(descending=True, stable=True)
    low = torch.maximum(dets[order, None, :2], dets[None, order, :2])
    high = torch.minimum(dets[order, None, 2:], dets[None, order, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (dets[order, 2:] - dets[order, :2]).prod(-1)
    overlaps = shared > iou_threshold * (area[:, None] + area - shared)
    stays = torch.ones(len(order), dtype=torch.bool)
    for i, row in enumerate(overlaps):
        if stays[i]:
            stays[i + 1 :] &= ~row[i + 1 :]
    return order[stays]
