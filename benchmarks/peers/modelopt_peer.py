"""NVIDIA ModelOpt's fake quantization of the torch model, run by torch on the CPU.

Recipes as its documentation describes them: https://nvidia.github.io/Model-Optimizer/guides/_pytorch_quantization.html
Percentile, entropy and MSE are its own ``HistogramCalibrator``; its configuration cannot select them, so they are
called the way its ``model_calib`` calls the maximum.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.worker import is_in_encoder_layer, serve

_PERCENTILE = 99.99
_NO_PROBABILITIES = "p_bmm_quantizer takes FP8 and FP4 only: the probabilities of an attention cannot be INT8"

ROWS = (
    Row(recipe="INT8_DEFAULT_CFG", standing="as shipped", placement="own", note="max; LayerNorm, pooler, head too"),
    Row(recipe="INT8_SMOOTHQUANT_CFG", standing="best", placement="own", note="its INT8 recipe for transformers"),
    Row(recipe="linear max", standing="matched", placement="linear"),
    Row(recipe="linear percentile", standing="matched", placement="linear", note="99.99, its calibrator by hand"),
    Row(recipe="linear entropy", standing="matched", placement="linear", note="its calibrator by hand"),
    Row(recipe="linear mse", standing="matched", placement="linear", note="its calibrator by hand"),
    Row(recipe="linear smoothquant", standing="matched", placement="linear"),
    Row(recipe="full max", standing="matched", placement="tensorrt", cannot=_NO_PROBABILITIES),
    Row(recipe="full but probs max", standing="nearest", placement="own", note="LayerNorm outputs serve the residual"),
    Row(recipe="full but probs percentile", standing="nearest", placement="own", note="the same, 99.99 by hand"),
)


class ModelOptModel:
    """The checkpoint in transformers, then the same model fake-quantized by ModelOpt."""

    def __init__(self, job: Job, folder: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(job.threads)
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(job.checkpoint).eval()

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        import torch

        with torch.inference_mode():
            logits = self.model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits
        return np.asarray(logits.numpy(), dtype=np.float32)

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Quantizes in place; a recipe is a name of ModelOpt's, or a placement and a method."""
        import modelopt.torch.quantization as mtq

        placement, _, method = recipe.rpartition(" ")
        base = mtq.INT8_SMOOTHQUANT_CFG if "smoothquant" in recipe.lower() else mtq.INT8_DEFAULT_CFG
        by_hand = method in ("percentile", "entropy", "mse")
        config = copy.deepcopy(base)
        if by_hand:
            config["quant_cfg"] += _use_histograms(config)
            config["algorithm"] = None
        if placement == "linear":
            config["quant_cfg"] += self.list_linear()
        elif placement:
            config["quant_cfg"] += self.list_full("histogram" if by_hand else "max")
        feeds = list(batches)
        mtq.quantize(self.model, config, None if by_hand else lambda _: self._run(feeds))
        if by_hand:
            self._calibrate(feeds, method)

    def describe(self) -> Inside:
        """Counts of the enabled quantizers."""
        enabled = [name for name, module in self.model.named_modules() if getattr(module, "is_enabled", False)]
        weights = [name.rpartition(".")[0] for name in enabled if name.endswith("weight_quantizer")]
        fed = {name.rpartition(".")[0] for name in enabled if name.endswith("input_quantizer")}
        scores = {f"{name.rpartition('.')[0]}.k_bmm_quantizer" for name in enabled if name.endswith("q_bmm_quantizer")}
        return Inside(
            weights=len(weights),
            activations=len(enabled) - len(weights),
            products=sum(name in fed or self._reads_layer_norm(name) for name in weights) + len(scores & set(enabled)),
            file_bytes=None,
            counted="modules",
        )

    def _run(self, feeds: Iterable[Feed]) -> None:
        for feed in feeds:
            self.infer(feed)

    def _calibrate(self, feeds: Iterable[Feed], method: str) -> None:
        """The passes of ``modelopt.torch.quantization.model_calib.max_calibrate`` with another method."""
        import torch
        from modelopt.torch.quantization.model_calib import enable_stats_collection
        from modelopt.torch.quantization.nn import TensorQuantizer

        enable_stats_collection(self.model)
        for module in self.model.modules():
            weight = getattr(module, "weight_quantizer", None)
            if isinstance(weight, TensorQuantizer) and weight.is_enabled:
                weight(module.weight)
        self._run(feeds)
        with torch.no_grad():
            for module in self.model.modules():
                if isinstance(module, TensorQuantizer) and module.is_enabled and module._calibrator is not None:
                    _load_range(module, method)

    def list_linear(self) -> list[dict[str, Any]]:
        """Everything off but the weight and input of each Linear of the encoder's layers."""
        off = [{"quantizer_name": "*", "parent_class": "nn.LayerNorm", "enable": False}]
        return off + [
            {"quantizer_name": f"{name}.*", "enable": False}
            for name, module in self.model.named_modules()
            if _has_weight(module) and not is_in_encoder_layer(name)
        ]

    def list_full(self, calibrator: str) -> list[dict[str, Any]]:
        """The linear placement, with LayerNorm outputs instead of the inputs they feed, and q, k, v."""
        if not any(name.endswith("intermediate.dense") for name, _ in self.model.named_modules()):
            raise NotImplementedError("the LayerNorms that feed a layer are listed for BERT alone")
        int8 = {"num_bits": 8, "axis": None, "calibrator": calibrator}
        entries = self.list_linear()
        for name, _ in self.model.named_modules():
            if self._reads_layer_norm(name):
                entries.append({"quantizer_name": f"{name}.input_quantizer", "enable": False})
        entries += [
            {"quantizer_name": f"{name}.output_quantizer", "cfg": int8, "enable": True}
            for name in self._list_layer_norms()
        ]
        return [*entries, {"quantizer_name": "*[qkv]_bmm_quantizer", "cfg": int8, "enable": True}]

    def _list_layer_norms(self) -> list[str]:
        """The LayerNorms whose output an encoder layer reads: all of BERT's but the last."""
        from torch import nn

        return [name for name, module in self.model.named_modules() if isinstance(module, nn.LayerNorm)][:-1]

    def _reads_layer_norm(self, name: str) -> bool:
        """Whether it is the q, k or v projection or the first feed-forward Linear of BERT."""
        return is_in_encoder_layer(name) and name.endswith((".query", ".key", ".value", "intermediate.dense"))


def _has_weight(module: Any) -> bool:
    from torch import nn

    return isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding)


def _use_histograms(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The activation quantizers of ``config`` once more, with ModelOpt's histogram calibrator."""
    return [
        {**entry, "cfg": {**entry["cfg"], "calibrator": "histogram"}}
        for entry in config["quant_cfg"]
        if "cfg" in entry and "weight" not in entry["quantizer_name"]
    ]


def _load_range(quantizer: Any, method: str) -> None:
    from modelopt.torch.quantization.calib import HistogramCalibrator

    if isinstance(quantizer._calibrator, HistogramCalibrator):
        options = {"percentile": _PERCENTILE} if method == "percentile" else {}
        quantizer.load_calib_amax(method, **options)
    else:
        quantizer.load_calib_amax()
    quantizer.enable_quant()
    quantizer.disable_calib()


PEER = Peer(
    name="modelopt",
    title="NVIDIA ModelOpt",
    requirements=(
        "nvidia-modelopt",
        "torch",
        "transformers",
        "numpy",
        "scipy",
        "requests",  # this one it does not declare
        "onnx",  # from here on, what its ONNX export imports
        "onnxruntime",
        "onnxscript",
        "onnxconverter-common",
        "onnx-graphsurgeon",
        "onnxslim",
        "polygraphy",
        "lief",
        "cppimport",
    ),
    packages=("nvidia-modelopt", "torch", "transformers", "numpy"),
    needs_graph=False,
    rows=ROWS,
    open=ModelOptModel,
)

if __name__ == "__main__":
    serve(PEER)
