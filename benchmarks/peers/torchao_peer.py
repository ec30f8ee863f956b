"""torchao on the CPU: its PT2E quantizer for x86 and ``quantize_``, both compiled by torch's Inductor.

Recipes as its documentation describes them:
https://docs.pytorch.org/ao/stable/tutorials_source/pt2e_quant_x86_inductor.html. Inductor needs a C++ compiler; the
float model beside which rows are timed is torch's own, uncompiled, so that what compiling alone brings is a row too.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.worker import is_in_encoder_layer, serve

_COMPILED, _DYNAMIC_LINEARS = "compiled float", "quantize_ dynamic"

ROWS = (
    Row(recipe=_COMPILED, standing="float", placement="float", weights="-", costs=("latency",)),
    Row(
        recipe=_DYNAMIC_LINEARS,
        standing="as shipped",
        placement="own",
        note="Int8DynamicActivationInt8WeightConfig",
        costs=("latency",),
    ),
    Row(recipe="pt2e dynamic", standing="best", placement="own", note="advised for transformers"),
    Row(recipe="pt2e static", standing="best", placement="own", note="X86InductorQuantizer", costs=("latency",)),
    Row(recipe="linear", standing="matched", placement="linear", note="pt2e static, encoder layers only"),
)


class TorchaoModel:
    """The checkpoint in transformers, then what Inductor makes of it, float or quantized."""

    def __init__(self, job: Job, folder: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(job.threads)
        self._folder = folder
        self._inside = Inside(weights=0, activations=0, products=0, file_bytes=None, counted="modules")
        self._model: Any = AutoModelForSequenceClassification.from_pretrained(job.checkpoint).eval()

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        import torch

        with torch.no_grad():
            logits = self._model(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits
        return np.asarray(logits.float().numpy())

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Quantizes unless the row is a float one, and compiles at the first batch."""
        import torch
        from torch._inductor import config as inductor

        data = list(batches)
        inductor.freezing = True  # as its documentation wants it for inference
        if recipe == _DYNAMIC_LINEARS:
            self._quantize_linears()
        elif recipe != _COMPILED:
            self._quantize_exported(recipe, data)
        self._model = torch.compile(self._model, dynamic=True)
        self.infer(data[0])

    def describe(self) -> Inside:
        """What was quantized, and the size of the saved weights."""
        return self._inside

    def _quantize_linears(self) -> None:
        from torch import nn
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(self._model, Int8DynamicActivationInt8WeightConfig())
        linears = sum(isinstance(module, nn.Linear) for module in self._model.modules())
        self._keep(linears, linears, linears, self._model.state_dict())

    def _quantize_exported(self, recipe: str, data: list[Feed]) -> None:
        import torch
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        config = x86.get_default_x86_inductor_quantization_config(is_dynamic=recipe.endswith("dynamic"))
        quantizer = x86.X86InductorQuantizer()
        if recipe == "linear":
            for name, module in self._model.named_modules():
                if is_in_encoder_layer(name) and isinstance(module, torch.nn.Linear):
                    quantizer.set_module_name_qconfig(name, config)
        else:
            quantizer.set_global(config)
        self._model = prepare_pt2e(self._export(data[0]), quantizer)
        for feed in data:
            self.infer(feed)
        self._model = convert_pt2e(self._model)
        calls = [str(node.target) for node in self._model.graph.nodes if node.op == "call_function"]
        weights = sum(call.endswith("dequantize_per_channel.default") for call in calls)
        quantized = sum(".quantize_per_tensor" in call for call in calls)
        self._keep(weights, quantized, weights, self._model.state_dict())

    def _export(self, feed: Feed) -> Any:
        """The float graph with free axes."""
        import torch

        longest = int(self._model.config.max_position_embeddings)
        axes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("sequence", min=2, max=longest)}
        example = {name: torch.from_numpy(array) for name, array in feed.items()}
        shapes = dict.fromkeys(example, axes)
        with torch.no_grad():
            return torch.export.export(self._model, (), kwargs=example, dynamic_shapes=shapes).module()

    def _keep(self, weights: int, activations: int, products: int, stored: Any) -> None:
        import torch

        path = self._folder / "weights.pt"
        torch.save(stored, path)
        self._inside = Inside(
            weights=weights,
            activations=activations,
            products=products,
            file_bytes=path.stat().st_size,
            counted="modules",
        )


PEER = Peer(
    name="torchao",
    title="torchao",
    requirements=("torchao", "torch", "transformers", "numpy"),
    packages=("torchao", "torch", "transformers", "numpy"),
    needs_graph=False,
    rows=ROWS,
    open=TorchaoModel,
    snippets=("torchao.py",),
)

if __name__ == "__main__":
    serve(PEER)
