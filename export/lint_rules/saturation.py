"""Saturation: where this machine's CPU adds pairs of products in 16 bits, something must leave room for them."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from export.lint_rules.base import Issue, rule, warning
from export.lint_rules.graph import LintGraph, constant_behind, dequantizer_of, input_of
from qat.cpu import saturates_int8

ROOM = 64
"""The largest level of which any pair of weights, times 255, fits 16 bits with its sign: 2 * 64 * 255 = 32640."""


@rule("saturating-sums", targets=("onnxruntime", "openvino"))
def check_saturation(graph: LintGraph) -> Iterator[Issue]:
    """On AVX2 without VNNI weights use 7 bits; runtimes make signed activations unsigned there."""
    if not saturates_int8():
        return
    large = [node for node in graph.of_type("MatMul", "Gemm", "Conv") if _uses_eight_bits(node)]
    if large:
        yield warning(
            large[0],
            f"{len(large)} products have weights beyond level {ROOM}, and this CPU has AVX2 without VNNI: "
            f"{graph.engine} adds pairs of their products with UINT8 in 16 bits, and what is larger is cut off; "
            "calibrate with --set weights.bits=7, or run it on CPUs with VNNI",
        )


@rule("saturating-attention", targets=("openvino",))
def check_attention(graph: LintGraph) -> Iterator[Issue]:
    """On AVX2 without VNNI the products of an attention stay float: no operand of theirs leaves room for the sums."""
    products = graph.products.products.values()
    quantized = [each.name for each in products if each.complete and each.weight_elements is None]
    if quantized and saturates_int8():
        yield warning(
            graph.named[quantized[0]],
            f"{len(quantized)} products are of two quantized activations, and this CPU has AVX2 without VNNI: "
            f"{graph.engine} adds pairs of theirs in 16 bits too, whatever the weights; calibrate with --recipe linear "
            "or run it on CPUs with VNNI",
        )


def _uses_eight_bits(product: ir.Node) -> bool:
    """Whether both operands are quantized, and one of them is a weight that leaves no room."""
    found = [dequantizer_of(each) for each in product.inputs[:2]]
    stored = [constant_behind(input_of(each, 0)) for each in found if each is not None]
    signed = [array for array in stored if array is not None and array.dtype == np.int8]
    return len(stored) == 2 and any(np.abs(array.astype(np.int16)).max(initial=0) > ROOM for array in signed)
