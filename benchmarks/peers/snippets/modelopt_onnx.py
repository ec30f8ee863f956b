"""NVIDIA ModelOpt: a Q/DQ graph for TensorRT."""

import sys


def quantize(checkpoint: str, data: str, out: str) -> None:
    """The quantized artefact, in ``out``."""
    import json
    from pathlib import Path

    import modelopt.torch.quantization as mtq
    from modelopt.torch._deploy.utils import OnnxBytes, get_onnx_bytes_and_metadata
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [json.loads(line)["text"] for line in Path(data).read_text().splitlines()[:512]]
    batches = [tokenizer(texts[i : i + 32], padding=True, return_tensors="pt") for i in range(0, len(texts), 32)]
    mtq.quantize(model, mtq.INT8_SMOOTHQUANT_CFG, lambda model: [model(**batch) for batch in batches])
    example = dict(batches[0])
    axes = {name: {0: "batch", 1: "sequence"} for name in example}
    made, _ = get_onnx_bytes_and_metadata(model, example, dynamic_axes=axes, weights_dtype="fp16")
    (graph,) = OnnxBytes.from_bytes(made).onnx_model.values()
    Path(out, "model.onnx").write_bytes(graph)


if __name__ == "__main__":
    quantize(*sys.argv[1:])
