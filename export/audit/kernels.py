"""Which kernels of a layer table compute which ONNX products, and in what type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from export.audit.layer_table import EngineLayer, TensorFact
from export.audit.products import Product, ProductGraph

Kind = Literal["gemm", "convolution", "attention"]
_FLOATS = ("Float", "BFloat16", "Half", "FP8")
_PRODUCT_KINDS = ("gemm", "correlation", "conv", "matrix_multiply", "matmul", "fully")
# fused kernels carry the short names of their parts: __myl_FcAddTanh, _gemm_mha_v2, __myl_CastMulFc
_PRODUCT_NAMES = ("Fc", "gemm", "mha", "Conv", "Corr", "Dot")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductKernel:
    """A kernel that computes products, and whether it does so in INT8; else ``float_type`` is its type."""

    layer: EngineLayer
    products: tuple[Product, ...]
    kind: Kind
    int8: bool
    float_type: str


def find_product_kernels(graph: ProductGraph, layers: Sequence[EngineLayer]) -> list[ProductKernel]:
    """The kernels that compute a product of the graph, in the order they run.

    Metadata alone does not tell: the kernel that applies a GEMM's per-channel scale names the GEMM's node too. A
    product belongs to the first kernel naming it whose kind or name is that of a product, else to the first naming it.
    """
    owners = _find_owners(graph.products, layers)
    kernels = []
    for index, layer in enumerate(layers):
        products = tuple(graph.products[name] for name, owner in owners.items() if owner == index)
        if products:
            kernels.append(_classify_kernel(layer, products, graph))
    return kernels


def _find_owners(products: Mapping[str, Product], layers: Sequence[EngineLayer]) -> dict[str, int]:
    owners: dict[str, int] = {}
    for certain in (True, False):
        for index, layer in enumerate(layers):
            if layer.is_kernel and _looks_like_product(layer) is certain:
                for name in layer.metadata:
                    if name in products:
                        owners.setdefault(name, index)
    return owners


def _looks_like_product(layer: EngineLayer) -> bool:
    kind = layer.kind.lower()
    return any(part in kind for part in _PRODUCT_KINDS) or any(part in layer.name for part in _PRODUCT_NAMES)


def _classify_kernel(layer: EngineLayer, products: tuple[Product, ...], graph: ProductGraph) -> ProductKernel:
    names = {product.name for product in products}
    fused = any(names.issuperset(pair) for pair in graph.attentions)
    if fused or any(product.operation == "Attention" for product in products):
        kind: Kind = "attention"
        int8 = _is_int8_attention(layer)
    else:
        convolves = all(product.operation in ("Conv", "ConvTranspose") for product in products)
        kind = "convolution" if convolves else "gemm"
        int8 = _is_int8_gemm(layer, products)
    return ProductKernel(layer=layer, products=products, kind=kind, int8=int8, float_type=_find_float_type(layer))


def _is_int8_attention(layer: EngineLayer) -> bool:
    """q, k and v arrive in INT8; only the mask may be float."""
    return sum(tensor.dtype == "Int8" for tensor in layer.inputs) >= 3


def _is_int8_gemm(layer: EngineLayer, products: Sequence[Product]) -> bool:
    """Both factors arrive in INT8; what is unsure counts as float."""
    integers = [tensor for tensor in layer.inputs if tensor.dtype == "Int8"]
    sizes = [product.weight_elements for product in products if product.weight_elements is not None]
    if not sizes:
        return len(integers) >= 2
    weights = [tensor for tensor in layer.constants if (tensor.elements or 0) >= min(sizes)]
    if not weights or any(tensor.dtype != "Int8" for tensor in weights) or not integers:
        return False
    return all(product.complete for product in products) or not _has_rival(layer.inputs, integers)


def _has_rival(inputs: Sequence[TensorFact], integers: Sequence[TensorFact]) -> bool:
    """Whether a float input is as deep as the INT8 ones: either may be the factor, the other a residual."""
    depths = {tensor.shape[-1:] for tensor in integers}
    return any(tensor.dtype in _FLOATS and tensor.shape[-1:] in depths for tensor in inputs)


def _find_float_type(layer: EngineLayer) -> str:
    types = {tensor.dtype for tensor in (*layer.inputs, *layer.outputs)}
    return next((name for name in _FLOATS if name in types), "unknown")
