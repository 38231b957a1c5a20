"""Architectures of transformers with small configurations: encoders, decoders, both, images, speech."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo.networks.entry import Inputs, ZooNetwork, padding_mask, pictures
from tests.zoo.networks.libraries import library

VOCABULARY, LENGTH = 99, 12

_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENCODER = {**_SIZES, "vocab_size": VOCABULARY, "intermediate_size": 128, "max_position_embeddings": 40}
_DECODER = {**_ENCODER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = {**_DECODER, "num_key_value_heads": 2, "head_dim": 16}
_BOTH = {
    "vocab_size": VOCABULARY, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 40,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip
_IMAGES = {**_SIZES, "intermediate_size": 128, "image_size": 32, "patch_size": 8, "num_labels": 10}
_T5 = {
    "vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
    "pad_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
_SPEECH = {
    **_ENCODER, "vocab_size": 32, "conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 3,
}  # fmt: skip
_SHORT = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_TEXT: dict[str, dict[str, Any]] = {
    # encoders
    "BertForSequenceClassification": {**_ENCODER, "num_labels": 5},
    "BertForMaskedLM": _ENCODER,
    "DistilBertForSequenceClassification": {
        "vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "num_labels": 5,
    },
    "RobertaForTokenClassification": {**_ENCODER, "num_labels": 5},
    "AlbertForSequenceClassification": {**_ENCODER, "embedding_size": 32, "num_labels": 5},
    "DebertaV2ForSequenceClassification": {
        **_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "num_labels": 5,
    },
    "ElectraForQuestionAnswering": {**_ENCODER, "embedding_size": 32},
    "MPNetForSequenceClassification": {**_ENCODER, "num_labels": 5},
    "ModernBertForMaskedLM": {**_DECODER, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8},
    # decoders
    "GPT2LMHeadModel": {**_SHORT, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 40},
    "GPTNeoXForCausalLM": _DECODER,
    "GPTJForCausalLM": {**_SHORT, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 40, "rotary_dim": 8},
    "OPTForCausalLM": {**_DECODER, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "LlamaForCausalLM": _GROUPED,
    "MistralForCausalLM": _GROUPED,
    "Qwen2ForCausalLM": _GROUPED,
    "Qwen3ForCausalLM": _GROUPED,
    "Gemma2ForCausalLM": {**_GROUPED, "sliding_window": 8},
    "PhiForCausalLM": _DECODER,
    "Phi3ForCausalLM": {**_DECODER, "num_key_value_heads": 2},
    "BloomForCausalLM": {**_SHORT, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "FalconForCausalLM": {**_DECODER, "new_decoder_architecture": True, "num_kv_heads": 2},
    "MixtralForCausalLM": {
        **_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "eager",
    },
}  # fmt: skip
_BOTH_WAYS: dict[str, dict[str, Any]] = {
    "T5ForConditionalGeneration": _T5,
    "BartForConditionalGeneration": _BOTH,
    "MarianMTModel": _BOTH,
    "PegasusForConditionalGeneration": _BOTH,
}
_VISION: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": _IMAGES,
    "DeiTForImageClassification": _IMAGES,
    "BeitForImageClassification": {**_IMAGES, "use_relative_position_bias": True, "layer_scale_init_value": 0.1},
    "Dinov2ForImageClassification": {**_IMAGES, "mlp_ratio": 2},
    "SwinForImageClassification": {
        "image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
        "num_labels": 10,
    },
    "ConvNextV2ForImageClassification": {
        "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_labels": 10, "image_size": 64,
    },
    "ResNetForImageClassification": {
        "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2], "num_labels": 10,
    },
    "SegformerForSemanticSegmentation": {
        "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4],
        "decoder_hidden_size": 32, "num_labels": 5,
    },
    "YolosForObjectDetection": {**_IMAGES, "image_size": [32, 32], "num_detection_tokens": 6},
}  # fmt: skip


def networks() -> Iterator[ZooNetwork]:
    """Yields them; transformers is imported when they are built."""
    for name, options in _TEXT.items():
        yield ZooNetwork(f"transformers/{name}", partial(_transformer, name, options), _text)
    for name, options in _BOTH_WAYS.items():
        yield ZooNetwork(f"transformers/{name}", partial(_transformer, name, options), _text_pair)
    for name, options in _VISION.items():
        size = 64 if "Segformer" in name or "Conv" in name or "ResNet" in name else 32
        yield ZooNetwork(f"transformers/{name}", partial(_transformer, name, options), pictures(size))
    yield ZooNetwork("transformers/DetrForObjectDetection", _detr, pictures(64))
    yield ZooNetwork("transformers/CLIPModel", partial(_two_towers, "CLIP"), _captioned)
    yield ZooNetwork("transformers/SiglipModel", partial(_two_towers, "Siglip"), _captioned)
    whisper = {**_BOTH, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 40}
    yield ZooNetwork(
        "transformers/WhisperForConditionalGeneration",
        partial(_transformer, "WhisperForConditionalGeneration", whisper),
        _spoken,
    )
    for name in ("Wav2Vec2ForCTC", "HubertForCTC"):
        yield ZooNetwork(f"transformers/{name}", partial(_transformer, name, _SPEECH), _sound)


def _transformer(name: str, options: dict[str, Any]) -> nn.Module:
    kind = getattr(library("transformers"), name)
    return kind(kind.config_class(**options))


def _detr() -> nn.Module:
    transformers = library("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    sizes = {key: value for key, value in _BOTH.items() if "token" not in key and key != "vocab_size"}
    sizes.pop("max_position_embeddings")
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone,
        num_queries=6, num_labels=5, **sizes,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config)


def _two_towers(family: str) -> nn.Module:
    transformers = library("transformers")
    pictures = {key: value for key, value in _IMAGES.items() if key != "num_labels"}
    text = {**_DECODER, "max_position_embeddings": LENGTH}
    sizes = {"projection_dim": 32} if family == "CLIP" else {}
    text |= {"projection_size": 64} if family == "Siglip" else {}
    config = getattr(transformers, f"{family}Config")(text_config=text, vision_config=pictures, **sizes)
    return getattr(transformers, f"{family}Model")(config)


def _text(samples: int, rng: torch.Generator) -> Inputs:
    """Draws tokens `[samples, LENGTH]` that none of the special ones is among, and where they end."""
    tokens = torch.randint(3, VOCABULARY, (samples, LENGTH), generator=rng)
    return {"input_ids": tokens, "attention_mask": padding_mask(samples, LENGTH, rng)}


def _text_pair(samples: int, rng: torch.Generator) -> Inputs:
    """Draws what a sequence is to be made of, and how far it has been made, `[samples, 7]`."""
    begun = torch.randint(3, VOCABULARY, (samples, 7), generator=rng)
    return {**_text(samples, rng), "decoder_input_ids": begun}


def _captioned(samples: int, rng: torch.Generator) -> Inputs:
    """Draws images `[samples, 3, 32, 32]` and texts that end in the last token, which CLIP looks for."""
    text = _text(samples, rng)
    text["input_ids"][:, -1] = 2
    text["attention_mask"][:] = 1
    return {**text, "pixel_values": pictures(32)(samples, rng)}


def _spoken(samples: int, rng: torch.Generator) -> Inputs:
    """Draws spectrograms `[samples, 16, 40]` and the text so far, `[samples, 7]`."""
    begun = torch.randint(3, VOCABULARY, (samples, 7), generator=rng)
    return {"input_features": torch.randn(samples, 16, 40, generator=rng), "decoder_input_ids": begun}


def _sound(samples: int, rng: torch.Generator) -> Inputs:
    """Draws waves `[samples, 1600]`."""
    return torch.randn(samples, 1600, generator=rng)
