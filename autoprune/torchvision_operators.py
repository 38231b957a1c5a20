"""Makes torchvision importable beside a torch that its wheel was not built for.

The wheel on PyPI is built for CUDA. Beside a build of torch for the CPU its operators (non-maximum suppression, the
pooling of regions) cannot be loaded, and importing it fails because of them, as does importing timm, Lightning and most
of transformers. Only detection uses them.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from functools import cache
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

_MISSING = "torchvision::"
_POOLING = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_POOLING}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool({_POOLING}) -> (Tensor, Tensor)",
    f"ps_roi_align({_POOLING}, int sampling_ratio) -> (Tensor, Tensor)",
    f"ps_roi_pool({_POOLING}) -> (Tensor, Tensor)",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt "
    "stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, "
    "bool use_mask) -> Tensor",
)


def import_beside_torchvision(name: str) -> ModuleType:
    """Imports a module, which may import torchvision, directly or by way of others."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as fault:
        if _MISSING not in str(fault) or complete_torchvision() is None:
            raise
        return importlib.import_module(name)


@cache
def complete_torchvision() -> Any:
    """Declares torchvision's operators, without what they do, where it is installed and cannot be imported for them.

    Returns:
        What keeps them declared; None where nothing was done.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as fault:
        if _MISSING not in str(fault):  # something else is wrong with it
            return None
    else:
        return None
    torch: Any = importlib.import_module("torch")  # this module is of the floor that knows nothing of it
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _OPERATORS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            operators.define(schema)
    log.info(
        "torchvision is built for another torch than %s: its operators, which detection needs, are missing",
        torch.__version__,
    )
    return operators
