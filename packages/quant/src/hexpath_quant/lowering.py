"""Rewrites of ordinary torch code into what AIMET and the NPU take, each of the same meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from hexpath_quant.errors import TraceError

RANK_OF_GEMM = 2


class OpenAttention(nn.Module):
    """nn.MultiheadAttention as linear layers, products and a softmax, each of which gets its quantizers.

    The scale 1/sqrt(width of a head) is inside the query's weights.
    """

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        if not source._qkv_same_embed_dim or source.bias_k is not None or source.add_zero_attn:
            raise TraceError(
                "nn.MultiheadAttention with kdim, vdim, add_bias_kv or add_zero_attn has no quantized form;"
                " remedy: write the attention with nn.Linear, matmul and softmax"
            )
        width = source.embed_dim
        self.heads, self.batch_first = source.num_heads, source.batch_first
        weights = source.in_proj_weight.detach().split(width)
        none = (None, None, None)
        biases = none if source.in_proj_bias is None else source.in_proj_bias.detach().split(width)
        scale = (width // self.heads) ** -0.5
        self.query, self.key, self.value = (
            linear(weight, bias, scale=factor)
            for weight, bias, factor in zip(weights, biases, (scale, 1.0, 1.0), strict=True)
        )
        self.project = linear(source.out_proj.weight, source.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any
    ) -> tuple[Tensor, None]:
        """Return the mixed values (B, N, width), or (N, B, width), and no weights."""
        if options.get("attn_mask") is not None or options.get("key_padding_mask") is not None:
            raise TraceError(
                "nn.MultiheadAttention with a mask has no quantized form; remedy: add the mask to the"
                " scores yourself, with nn.Linear, matmul and softmax"
            )
        if not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = (
            layer(tensor).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, tensor in ((self.query, query), (self.key, key), (self.value, value))
        )
        weights = torch.softmax(torch.matmul(q, k.transpose(2, 3)), -1)
        mixed = self.project(torch.matmul(weights, v).transpose(1, 2).flatten(2))
        return (mixed if self.batch_first else mixed.transpose(0, 1)), None


def linear(weight: Tensor, bias: Tensor | None, *, scale: float = 1.0) -> nn.Linear:
    """Return a linear layer of the given values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data.copy_(weight.detach() * scale)
    if bias is not None:
        layer.bias.data.copy_(bias.detach() * scale)
    return layer


def open_attention(model: nn.Module) -> nn.Module:
    """Replace every nn.MultiheadAttention in ``model``, in place; return the model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            opened = OpenAttention(module).to(module.out_proj.weight)
            if not name:
                return opened
            model.set_submodule(name, opened)
    return model


def drop_unchanged(traced: torch.fx.GraphModule, *, unchanged: set[str]) -> None:
    """Remove calls of unknown functions that return their input as it is: stochastic depth in eval mode."""
    for node in list(traced.graph.nodes):
        if node.name in unchanged:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def functions_to_layers(traced: torch.fx.GraphModule) -> None:
    """Make functional calls with constant weights (``F.layer_norm``, ``F.linear``, ``F.prelu``) layers."""
    for node in list(traced.graph.nodes):
        build = LAYERS.get(node.target) if node.op == "call_function" else None
        if build is None:
            continue
        names = ARGUMENTS[node.target]
        given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        values = {name: value_of(traced, argument) for name, argument in given.items() if name != "input"}
        if any(isinstance(value, torch.fx.Node) for value in values.values()):
            continue
        name = f"{node.name}_layer"
        traced.add_submodule(name, build(values).eval())
        with traced.graph.inserting_before(node):
            new = traced.graph.call_module(name, args=(given["input"],))
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        traced.graph.erase_node(node)


def value_of(traced: torch.fx.GraphModule, argument: Any) -> Any:
    """Return the tensor that an argument names, else the argument."""
    if isinstance(argument, torch.fx.Node) and argument.op == "get_attr":
        path, _, name = str(argument.target).rpartition(".")
        return getattr(traced.get_submodule(path), name)
    return argument


def _layer_norm(values: Mapping[str, Any]) -> nn.Module:
    layer = nn.LayerNorm(tuple(values["normalized_shape"]), eps=values.get("eps", 1e-5))
    if values.get("weight") is not None:
        layer.weight.data.copy_(values["weight"])
    if values.get("bias") is not None:
        layer.bias.data.copy_(values["bias"])
    return layer


def _linear(values: Mapping[str, Any]) -> nn.Module:
    return linear(values["weight"], values.get("bias"))


def _prelu(values: Mapping[str, Any]) -> nn.Module:
    layer = nn.PReLU(values["weight"].numel())
    layer.weight.data.copy_(values["weight"])
    return layer


LAYERS = {F.layer_norm: _layer_norm, F.linear: _linear, F.prelu: _prelu, torch.prelu: _prelu}
ARGUMENTS = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.linear: ("input", "weight", "bias"),
    F.prelu: ("input", "weight"),
    torch.prelu: ("input", "weight"),
}


def flatten_linear(traced: torch.fx.GraphModule, *, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Let each linear layer take a matrix: then it is one operator with an int32 bias (Gemm).

    Of a tensor with more axes torch's exporter makes a product and a sum, with a tensor between that has
    no encoding.
    """
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(traced.get_submodule(node.target), nn.Linear):
            continue
        shape = shapes.get(node.name, ())
        if len(shape) <= RANK_OF_GEMM:
            continue
        source = node.args[0]
        layer: Any = traced.get_submodule(node.target)
        with traced.graph.inserting_before(node):
            matrix = traced.graph.call_method("reshape", (source, -1, layer.in_features))
        node.args = (matrix,)
        with traced.graph.inserting_after(node):
            back = traced.graph.call_method("reshape", (node, -1, *shape[1:]))
        node.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
