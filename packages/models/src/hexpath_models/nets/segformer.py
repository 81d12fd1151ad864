"""SegFormer-B0 over the modules of transformers, with a forward that is static and stays in (B, C, H, W).

Paper: Xie, Wang, Yu, Anandkumar, Alvarez, Luo, "SegFormer: Simple and Efficient Design for Semantic
Segmentation with Transformers", NeurIPS 2021, arXiv:2105.15203. The weights are those of
transformers.SegformerForSemanticSegmentation; `from_theirs` and `to_theirs` translate.

Shapes, for an image (B, 3, H, W), stage s = 0..3, stride 4, 8, 16, 32, C = 32, 64, 160, 256:
    map      (B, C, h, w)
    queries  (B, heads, h w, 32)      keys, values  (B, heads, h w / r^2, 32), r = 8, 4, 2, 1
    logits   (B, classes, H/4, W/4)

For the NPU:
- every Linear is a 1x1 convolution here: MatMul and Add would be two operators unless fused, and the
  transposes between tokens and maps go away with the layout (NHWC) that the NPU has anyway.
- the queries' factor 1/sqrt(32) is part of their weights: one tensor less to quantize.
- GELU must leave the exporter as one operator: opset 20 or later; LayerNorm likewise, over the last axis.
- maps are resized to the first one's size; tied encodings keep Resize from becoming a float island.
- the head projects four maps to 256 channels, enlarges three, and convolves all 1024 channels at H/4: half of
  the multiplications. Nothing stands between these linear steps, and a 1x1 convolution commutes with a
  bilinear resize (whose weights sum to 1): `Fusion.ONCE` deploys one convolution of the 512 channels of the
  enlarged maps, the same function, and so the head has one tensor of 512 instead of 1024 channels at H/4.
  `Fusion.EARLY` has the fewest multiplications (one convolution a map, at the map's size, and a sum) but is
  slower on the NPU: the sums cost more than what they save. Training keeps the authors' weights and order.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4


class Fusion(StrEnum):
    """Where the deployed head convolves: a map before it is enlarged, all maps after that, or as trained."""

    ONCE = "once"
    EARLY = "early"
    LATE = "late"


class SegFormer(nn.Module):
    """SegFormer-B0 with random weights."""

    head_keys = ("decode_head.classifier.weight", "decode_head.classifier.bias")
    head_modules = ("decode_head",)

    def __init__(self, *, classes: int, fusion: Fusion = Fusion.ONCE) -> None:
        super().__init__()
        self.fusion = fusion
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        theirs: Any = SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes))
        self.segformer, self.decode_head = theirs.segformer, theirs.decode_head
        for block in _blocks(self.segformer):
            block.mlp.activation_fn = nn.GELU()
        _convolve(self)
        for block in _blocks(self.segformer):
            _scale_queries(block.attention, block.attention.scaling)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized, to logits (B, classes, H/4, W/4)."""
        return self.decode(self.maps(images))

    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), normalized, to the outputs of the four stages."""
        maps = []
        x = images
        for stage in self.segformer.stages:
            x = self._stage(stage, x)
            maps.append(x)
        return maps

    def decode(self, maps: list[Tensor]) -> Tensor:
        """Return the logits: maps projected, enlarged, joined, fused."""
        head: Any = self.decode_head
        projected = [module.proj(x) for module, x in zip(head.linear_projections, maps, strict=True)]
        fused = head.linear_fuse(torch.cat(enlarged(projected)[::-1], 1))
        return head.classifier(head.dropout(head.activation(head.batch_norm(fused))))  # type: ignore[no-any-return]

    def deployed(self) -> nn.Module:
        """Return the network as the NPU gets it: the same function in evaluation mode, see `Fusion`."""
        kinds = {Fusion.EARLY: Fused, Fusion.ONCE: FusedOnce}
        return kinds[self.fusion](self) if self.fusion in kinds else self

    def _stage(self, stage: Any, x: Tensor) -> Tensor:
        x = _norm(stage.patch_embeddings.layer_norm, stage.patch_embeddings.proj(x))
        for block in stage.blocks:
            attended = self._attend(block.attention, _norm(block.layernorm_before, x))
            x = self._drop(block, attended) + x
            mlp = block.mlp
            hidden = mlp.fc2(mlp.activation_fn(mlp.dwconv.dwconv(mlp.fc1(_norm(block.layernorm_after, x)))))
            x = self._drop(block, hidden) + x
        return _norm(stage.layer_norm, x)

    def _drop(self, block: Any, x: Tensor) -> Tensor:
        """Stochastic depth, in training only: its random mask has no place in a deployed graph."""
        return block.drop_path(x) if self.training else x

    def _attend(self, attention: Any, x: Tensor) -> Tensor:
        height, width = x.shape[-2], x.shape[-1]
        tokens = height * width
        source = x
        if attention.sequence_reduction_ratio > 1:
            reduction = attention.sequence_reduction
            source = _norm(reduction.layer_norm, reduction.sequence_reduction(x))
        fewer = source.shape[-2] * source.shape[-1]
        q = _heads(attention.q_proj(x), attention, tokens)
        k = _heads(attention.k_proj(source), attention, fewer)
        v = _heads(attention.v_proj(source), attention, fewer)
        weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)), -1)
        mixed = torch.matmul(weights, v).transpose(1, 2)
        channels = attention.num_attention_heads * attention.head_dim
        return attention.o_proj(mixed.reshape(-1, height, width, channels).permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    def from_theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate a state dict of transformers into this network's."""
        own = self.state_dict()
        found = {
            key: value[..., None, None] if key in own and own[key].ndim == value.ndim + 2 else value
            for key, value in state.items()
        }
        scale = _blocks(self.segformer)[0].attention.scaling
        return {key: value * scale if ".q_proj." in key else value for key, value in found.items()}

    def to_theirs(self) -> dict[str, Tensor]:
        """Translate this network's state dict into one for transformers."""
        scale = _blocks(self.segformer)[0].attention.scaling
        linear = (".q_proj.", ".k_proj.", ".v_proj.", ".o_proj.", ".fc1.", ".fc2.", ".linear_projections.")
        result = {}
        for key, value in self.state_dict().items():
            flat = value[:, :, 0, 0] if value.ndim == 4 and any(part in key for part in linear) else value
            result[key] = flat / scale if ".q_proj." in key else flat
        return result

    def read_published(self, place: Path) -> dict[str, Tensor]:
        """Return the weights at a folder, or under a hub id, in this network's form.

        Raises MissingWeightsError when transformers finds nothing there.
        """
        from transformers import SegformerForSemanticSegmentation

        from ..errors import MissingWeightsError

        try:
            theirs: Any = SegformerForSemanticSegmentation.from_pretrained(str(place))
        except (OSError, ValueError) as error:
            raise MissingWeightsError(
                f"transformers finds no SegFormer at {place}: {' '.join(str(error).split())[:160]}; put the "
                "folder (config.json, model.safetensors) into assets/ or the folder named by HEXPATH_ASSETS "
                "(licence: NVIDIA, non-commercial)"
            ) from error
        return self.from_theirs(theirs.state_dict())


class Fused(nn.Module):
    """SegFormer in evaluation mode with projections, fusing convolution and batch norm as one layer a map."""

    def __init__(self, source: SegFormer) -> None:
        super().__init__()
        head: Any = source.decode_head
        self.encoder = copy.deepcopy(source)
        del self.encoder.decode_head
        norm: Any = head.batch_norm
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        # Joined last to first, as in `decode`.
        parts = head.linear_fuse.weight[:, :, 0, 0].chunk(len(head.linear_projections), 1)[::-1]
        pairs = zip(head.linear_projections, parts, strict=True)
        self.fuse = nn.ModuleList(_product(module.proj, gain[:, None] * part) for module, part in pairs)
        first: Any = self.fuse[0]
        first.bias.data += (norm.bias - norm.running_mean * gain).detach()
        self.relu = nn.ReLU()
        self.classifier = copy.deepcopy(head.classifier)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized, to logits (B, classes, H/4, W/4)."""
        fused = [layer(x) for layer, x in zip(self.fuse, self.encoder.maps(images), strict=True)]
        total = fused[0]
        for x in enlarged(fused)[1:]:
            total = total + x
        return self.classifier(self.relu(total))  # type: ignore[no-any-return]


class FusedOnce(Fused):
    """The same with the maps themselves enlarged and joined, and one convolution of all."""

    def __init__(self, source: SegFormer) -> None:
        super().__init__(source)
        layers: list[Any] = list(self.fuse)
        joined = nn.Conv2d(sum(layer.in_channels for layer in layers), layers[0].out_channels, 1)
        joined.weight.data.copy_(torch.cat([layer.weight for layer in layers], 1).detach())
        assert joined.bias is not None
        joined.bias.data.copy_(sum(layer.bias.detach() for layer in layers))
        self.fuse = joined  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalized, to logits (B, classes, H/4, W/4)."""
        fused = self.fuse(torch.cat(enlarged(self.encoder.maps(images)), 1))
        return self.classifier(self.relu(fused))  # type: ignore[no-any-return]


def enlarged(maps: list[Tensor]) -> list[Tensor]:
    """Return all maps at the size of the first."""
    size = maps[0].shape[-2:]
    rest = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps[1:]]
    return [maps[0], *rest]


def _product(inner: Any, outer: Tensor) -> nn.Conv2d:
    """Return the 1x1 convolution `inner` followed by the matrix `outer` (out, middle), as one."""
    with torch.no_grad():
        weight = outer.double() @ inner.weight[:, :, 0, 0].double()
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
        layer.weight.copy_(weight[..., None, None])
        assert layer.bias is not None
        layer.bias.copy_(outer.double() @ inner.bias.double())
    return layer


def _blocks(segformer: Any) -> list[Any]:
    return [block for stage in segformer.stages for block in stage.blocks]


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalize (B, C, h, w) over its channels."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def _heads(x: Tensor, attention: Any, tokens: int) -> Tensor:
    """(B, C, h, w) to (B, heads, tokens, head_dim)."""
    split = x.permute(0, 2, 3, 1).reshape(-1, tokens, attention.num_attention_heads, attention.head_dim)
    return split.transpose(1, 2)


def _scale_queries(attention: Any, scale: float) -> None:
    with torch.no_grad():
        attention.q_proj.weight.mul_(scale)
        attention.q_proj.bias.mul_(scale)


def _convolve(model: nn.Module) -> None:
    """Replace each Linear by the 1x1 convolution that computes the same."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            layer = nn.Conv2d(module.in_features, module.out_features, 1, bias=module.bias is not None)
            layer.weight.data.copy_(module.weight.data[..., None, None])
            if module.bias is not None and layer.bias is not None:
                layer.bias.data.copy_(module.bias.data)
            model.set_submodule(name, layer)


def segformer_b0(*, classes: int, fusion: Fusion = Fusion.ONCE) -> SegFormer:
    """Return SegFormer-B0 with random weights."""
    return SegFormer(classes=classes, fusion=fusion)
