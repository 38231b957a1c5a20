"""Networks of torchvision, segmentation-models-pytorch and ultralytics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.networks.entry import Inputs, ZooNetwork, pictures
from tests.zoo.networks.libraries import library

# Names of torchvision's builders to the size of the images.
_CLASSIFIERS = {
    "alexnet": 64, "vgg16_bn": 32, "resnet18": 64, "resnet34": 64, "resnet50": 64, "resnext50_32x4d": 64,
    "wide_resnet50_2": 64, "squeezenet1_1": 64, "densenet121": 64, "inception_v3": 299, "googlenet": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mobilenet_v3_large": 64, "shufflenet_v2_x1_0": 64, "mnasnet1_0": 64,
    "efficientnet_b0": 64, "efficientnet_v2_s": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64, "convnext_tiny": 64,
    "swin_t": 64, "swin_v2_t": 64, "maxvit_t": 224,
}  # fmt: skip
_SEGMENTERS = {"fcn_resnet50": 64, "deeplabv3_resnet50": 64, "lraspp_mobilenet_v3_large": 64}
_VIDEO = {"r3d_18": (8, 32, 32), "mc3_18": (8, 32, 32), "r2plus1d_18": (8, 32, 32), "swin3d_t": (8, 64, 64)}
# Few proposals, so that the heads see equally many in every image; the best detections, whatever their score.
_ONE_STAGE = {"score_thresh": 0.0, "detections_per_img": 5, "topk_candidates": 20}
_SMALL = {"min_size": 96, "max_size": 96}
_TWO_STAGES = {
    **_SMALL, "rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 20, "rpn_nms_thresh": 1.0,
    "rpn_pre_nms_top_n_train": 100, "rpn_post_nms_top_n_train": 20, "box_batch_size_per_image": 16,
    "box_score_thresh": 0.0, "box_detections_per_img": 5,
}  # fmt: skip
_DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": _TWO_STAGES,
    "fasterrcnn_mobilenet_v3_large_fpn": _TWO_STAGES,
    "maskrcnn_resnet50_fpn": _TWO_STAGES,
    "keypointrcnn_resnet50_fpn": _TWO_STAGES,
    "retinanet_resnet50_fpn": {**_SMALL, **_ONE_STAGE},
    "fcos_resnet50_fpn": {**_SMALL, **_ONE_STAGE},
    "ssd300_vgg16": _ONE_STAGE,
    "ssdlite320_mobilenet_v3_large": _ONE_STAGE,
}
_YOLOS = ("yolov5n", "yolov8n", "yolov8n-seg", "yolov10n", "yolo11n", "yolo26n")
_SMP = {
    "Unet": "resnet18", "UnetPlusPlus": "resnet18", "FPN": "resnet34", "PSPNet": "resnet18", "Linknet": "mobilenet_v2",
    "DeepLabV3Plus": "resnet18", "Segformer": "mit_b0",
}  # fmt: skip


def networks() -> Iterator[ZooNetwork]:
    """Yields them; their libraries are imported when they are built."""
    for name, size in {**_CLASSIFIERS, **_SEGMENTERS}.items():
        yield ZooNetwork(f"torchvision/{name}", partial(_torchvision, name), pictures(size))
    yield ZooNetwork("torchvision/vit_b_16 of 3 layers", _vision_transformer, pictures(64))
    for name, shape in _VIDEO.items():
        yield ZooNetwork(f"torchvision/{name}", partial(_torchvision, name), pictures(shape))
    yield ZooNetwork("torchvision/raft_small", partial(_torchvision, "raft_small"), _pairs)
    for name, options in _DETECTORS.items():
        draw = partial(_image_list, 320 if "320" in name else 300 if "300" in name else 96)
        yield ZooNetwork(f"torchvision/{name}", partial(_torchvision, name, **options), draw, partial(_annotated, draw))
    for name in _YOLOS:
        yield ZooNetwork(f"ultralytics/{name}", partial(_yolo, name), pictures(128))
    for name, encoder in _SMP.items():
        yield ZooNetwork(f"smp/{name} on {encoder}", partial(_smp, name, encoder), pictures(64))


def _torchvision(name: str, **options: Any) -> nn.Module:
    get = library("torchvision").models.get_model
    backbone = {"weights_backbone": None} if "resnet50_fpn" in name or name in (*_DETECTORS, *_SEGMENTERS) else {}
    quiet = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return get(name, weights=None, **backbone, **quiet, **options)


def _vision_transformer() -> nn.Module:
    transformer = library("torchvision").models.VisionTransformer
    return transformer(image_size=64, patch_size=16, num_layers=3, num_heads=12, hidden_dim=768, mlp_dim=3072)


def _yolo(name: str) -> nn.Module:
    library("ultralytics")
    tasks = library("ultralytics.nn.tasks")
    kind = tasks.SegmentationModel if name.endswith("-seg") else tasks.DetectionModel
    return kind(f"{name}.yaml", verbose=False)


def _smp(name: str, encoder: str) -> nn.Module:
    return getattr(library("segmentation_models_pytorch"), name)(encoder, encoder_weights=None, classes=3)


def _pairs(samples: int, rng: torch.Generator) -> Inputs:
    """Draws two frames each, `[samples, 3, 128, 128]`."""
    return tuple(torch.rand(samples, 3, 128, 128, generator=rng) * 2 - 1 for _ in range(2))


def _image_list(size: int, samples: int, rng: torch.Generator) -> list[Tensor]:
    """Draws what detectors take: a list of `[3, size, size]` with values from 0 to 1."""
    return [torch.rand(3, size, size, generator=rng) for _ in range(samples)]


def _annotated(draw: Any, samples: int, rng: torch.Generator) -> Inputs:
    """Draws pictures and what is to be found in them: two boxes each, with classes, masks and keypoints."""
    pictures = draw(samples, rng)
    targets = []
    for picture in pictures:
        low = torch.rand(2, 2, generator=rng) * 30
        boxes = torch.cat([low, low + 20 + torch.rand(2, 2, generator=rng) * 30], 1)
        points = torch.cat([(boxes[:, None, :2] + boxes[:, None, 2:]).expand(2, 17, 2) / 2, torch.ones(2, 17, 1)], 2)
        targets.append(
            {
                "boxes": boxes,
                "labels": torch.ones(2, dtype=torch.long),
                "masks": torch.ones(2, *picture.shape[1:], dtype=torch.uint8),
                "keypoints": points,
            }
        )
    return pictures, targets
