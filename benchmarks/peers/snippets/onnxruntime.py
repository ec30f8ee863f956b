"""ONNX Runtime: a Q/DQ graph for its CPU provider."""

import sys


def quantize(checkpoint: str, data: str, out: str) -> None:
    """The quantized artefact, in ``out``."""
    import json
    from pathlib import Path

    import torch
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [json.loads(line)["text"] for line in Path(data).read_text().splitlines()[:512]]
    batches = [tokenizer(texts[i : i + 32], padding=True, return_tensors="pt") for i in range(0, len(texts), 32)]
    example = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=model.config.max_position_embeddings)}
    shapes = dict.fromkeys(example, axes)
    float_graph = f"{out}/float.onnx"
    torch.onnx.export(model, kwargs=example, f=float_graph, dynamic_shapes=shapes, dynamo=True, external_data=False)
    feeds = iter([{name: batch[name].numpy() for name in example} for batch in batches])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, object] | None:
            return next(feeds, None)

    quant_pre_process(float_graph, f"{out}/prepared.onnx", skip_symbolic_shape=True)
    options = {"op_types_to_quantize": ["MatMul"], "per_channel": True}
    quantize_static(f"{out}/prepared.onnx", f"{out}/model.onnx", Reader(), **options)


if __name__ == "__main__":
    quantize(*sys.argv[1:])
