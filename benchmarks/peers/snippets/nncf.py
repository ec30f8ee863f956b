"""NNCF: an OpenVINO model."""

import sys


def quantize(checkpoint: str, data: str, out: str) -> None:
    """The quantized artefact, in ``out``."""
    import json
    from pathlib import Path

    import nncf
    import openvino
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [json.loads(line)["text"] for line in Path(data).read_text().splitlines()[:512]]
    batches = [tokenizer(texts[i : i + 32], padding=True, return_tensors="pt") for i in range(0, len(texts), 32)]
    example = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
    converted = openvino.convert_model(model, example_input=example)
    feeds = nncf.Dataset([{name: batch[name].numpy() for name in example} for batch in batches])
    quantized = nncf.quantize(converted, feeds, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
    openvino.save_model(quantized, f"{out}/model.xml")


if __name__ == "__main__":
    quantize(*sys.argv[1:])
