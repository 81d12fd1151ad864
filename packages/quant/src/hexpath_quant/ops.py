"""Which function becomes which module when a model is prepared.

AIMET puts quantizers on modules, so every operator that computes must be one. Operators
that only move data (view, chunk, transpose, ...) stay functions: they carry their input's
encoding, so that no requantization or float island appears around them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from aimet_torch.nn.modules import custom
from torch import nn

Factory = Callable[[tuple[Any, ...], Mapping[str, Any]], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


def _same_call(kind: type[nn.Module]) -> Factory:
    """Build ``kind()`` and call it with the function's own arguments."""
    return lambda args, kwargs: (kind(), args, dict(kwargs))


def _configured(kind: Callable[..., nn.Module], *names: str, **defaults: Any) -> Factory:
    """Build ``kind`` from the function's settings and call it with the tensor alone."""

    def build(
        args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        given = dict(zip(names, args[1:], strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        return kind(**(defaults | given)), args[:1] or (kwargs["input"],), {}

    return build


def _concat(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    tensors = args[0] if args else kwargs["tensors"]
    axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    return custom.Concat(axis), tuple(tensors), {}


_ADD, _SUBTRACT = _same_call(custom.Add), _same_call(custom.Subtract)
_MULTIPLY, _DIVIDE = _same_call(custom.Multiply), _same_call(custom.Divide)
_MATMUL = _same_call(custom.MatMul)
_SOFTMAX, _SIGMOID = _configured(nn.Softmax, "dim"), _configured(nn.Sigmoid)
_RELU, _TANH, _SILU = _configured(nn.ReLU), _configured(nn.Tanh), _configured(nn.SiLU)
_MEAN, _SUM, _POW = _same_call(custom.Mean), _same_call(custom.Sum), _same_call(custom.Pow)
_EXP, _SQRT = _same_call(custom.Exponential), _same_call(custom.Sqrt)

COMPUTES: dict[Any, Factory] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _ADD),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"), _SUBTRACT),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"), _MULTIPLY),
    **dict.fromkeys((operator.truediv, torch.div, torch.divide, "div", "div_"), _DIVIDE),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"), _MATMUL),
    **dict.fromkeys((F.softmax, torch.softmax, "softmax"), _SOFTMAX),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_"), _SIGMOID),
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_"), _RELU),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), _TANH),
    **dict.fromkeys((torch.exp, "exp"), _EXP),
    **dict.fromkeys((torch.sqrt, "sqrt"), _SQRT),
    **dict.fromkeys((torch.pow, operator.pow, "pow"), _POW),
    **dict.fromkeys((torch.mean, "mean"), _MEAN),
    **dict.fromkeys((torch.sum, "sum"), _SUM),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _concat),
    F.silu: _SILU,
    F.relu6: _configured(nn.ReLU6),
    F.hardswish: _configured(nn.Hardswish),
    F.hardsigmoid: _configured(nn.Hardsigmoid),
    F.gelu: _configured(nn.GELU, approximate="none"),
    F.leaky_relu: _configured(nn.LeakyReLU, "negative_slope"),
    F.interpolate: _same_call(custom.Interpolate),
    F.pad: _same_call(custom.Pad),
    F.max_pool2d: _same_call(custom.MaxPool2d),
    torch.max_pool2d: _same_call(custom.MaxPool2d),
    F.avg_pool2d: _same_call(custom.AvgPool2d),
    F.adaptive_avg_pool2d: _same_call(custom.AdaptiveAvgPool2d),
}

MOVES_DATA: set[Any] = {
    operator.getitem,
    getattr,
    torch.chunk,
    torch.split,
    torch.permute,
    torch.transpose,
    torch.reshape,
    torch.flatten,
    torch.squeeze,
    torch.unsqueeze,
    torch.unbind,
    torch.movedim,
    torch.swapaxes,
    "chunk",
    "split",
    "view",
    "reshape",
    "permute",
    "transpose",
    "flatten",
    "squeeze",
    "unsqueeze",
    "expand",
    "unbind",
    "contiguous",
    "size",
    "unflatten",
    "expand_as",
    "view_as",
    "clone",
    "detach",
    "to",
    "float",
    "movedim",
    "swapaxes",
    "T",
    "mT",
}

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
DROPOUT_FUNCTIONS = (F.dropout, F.dropout2d)
