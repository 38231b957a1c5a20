"""Networks of timm: its families, each by a small member."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from tests.zoo.networks.entry import ZooNetwork, pictures
from tests.zoo.networks.libraries import library

# Names to the size of the images; of those that are built for one size, that is set too.
_ANY_SIZE = {
    # residual networks and what came of them
    "resnet26d": 64, "seresnext26d_32x4d": 64, "resnest14d": 64, "res2net50_14w_8s": 64, "skresnet18": 64,
    "resnetv2_50x1_bit": 64, "ecaresnet26t": 64, "cspresnet50": 64, "darknet53": 64, "dla34": 64, "dpn48b": 64,
    "hrnet_w18_small": 64, "regnety_004": 64, "nf_regnet_b0": 64, "nfnet_l0": 64, "densenet121": 64,
    "ese_vovnet19b_dw": 64, "repvgg_a0": 64, "mobileone_s0": 64, "xception41": 96, "inception_v4": 96,
    # mobile networks
    "efficientnet_b0": 64, "tf_efficientnetv2_b0": 64, "mobilenetv3_small_100": 64, "mobilenetv4_conv_small": 64,
    "ghostnet_100": 64, "mixnet_s": 64, "rexnet_100": 64, "lcnet_050": 64,
    # convolutional networks of the age of transformers
    "convnext_atto": 64, "convnextv2_atto": 64, "inception_next_tiny": 64, "focalnet_tiny_srf": 64,
    "convmixer_768_32": 56, "poolformer_s12": 64, "caformer_s18": 64, "fastvit_t8": 64, "repvit_m0_9": 64,
    "starnet_s1": 64,
    # hybrids
    "mobilevit_xxs": 64, "mobilevitv2_050": 64, "edgenext_xx_small": 64, "pvt_v2_b0": 64, "davit_tiny": 64,
    "efficientvit_b0": 64,
}  # fmt: skip
_SET_SIZE: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "num_classes": 10},
    "deit3_small_patch16_224": {"img_size": 64},
    "beit_base_patch16_224": {"img_size": 64, "depth": 3},
    "eva02_tiny_patch14_224": {"img_size": 56, "num_classes": 10},
    "cait_xxs24_224": {"img_size": 64},
    "xcit_nano_12_p16_224": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 128, "window_size": 4},
    "swinv2_tiny_window8_256": {"img_size": 128, "window_size": 4},
    "twins_svt_small": {"img_size": 224},
    "maxvit_pico_rw_256": {"img_size": 128},
    "coatnet_pico_rw_224": {"img_size": 224},
    "crossvit_9_240": {"img_size": 240},
    "levit_128s": {"img_size": 224},
    "efficientformer_l1": {"img_size": 224},
    "tiny_vit_5m_224": {"img_size": 224},
    "mixer_s32_224": {"img_size": 224},
    "gmlp_ti16_224": {"img_size": 224},
    "resmlp_12_224": {"img_size": 224},
}
# These are built for their size and take no other.
_FIXED = ("levit_128s", "efficientformer_l1", "tiny_vit_5m_224")


def networks() -> Iterator[ZooNetwork]:
    """Yields them; timm is imported when they are built."""
    for name, size in _ANY_SIZE.items():
        yield ZooNetwork(f"timm/{name}", partial(_timm, name), pictures(size))
    for name, options in _SET_SIZE.items():
        given = {key: value for key, value in options.items() if key != "img_size" or name not in _FIXED}
        yield ZooNetwork(f"timm/{name}", partial(_timm, name, **given), pictures(options["img_size"]))


def _timm(name: str, **options: Any) -> nn.Module:
    return library("timm").create_model(name, pretrained=False, **options)
