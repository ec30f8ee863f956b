"""torchao: a program that torch's Inductor compiles where it is loaded."""

import sys


def quantize(checkpoint: str, data: str, out: str) -> None:
    """The quantized artefact, in ``out``."""
    import json
    from pathlib import Path

    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [json.loads(line)["text"] for line in Path(data).read_text().splitlines()[:512]]
    batches = [tokenizer(texts[i : i + 32], padding=True, return_tensors="pt") for i in range(0, len(texts), 32)]
    example = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
    longest = model.config.max_position_embeddings
    axes = {0: torch.export.Dim("batch", min=1, max=4096), 1: torch.export.Dim("sequence", min=2, max=longest)}
    shapes = dict.fromkeys(example, axes)
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        exported = torch.export.export(model, (), kwargs=example, dynamic_shapes=shapes).module()
        prepared = prepare_pt2e(exported, quantizer)
        for batch in batches:
            prepared(**{name: batch[name] for name in example})
        quantized = convert_pt2e(prepared)
        saved = torch.export.export(quantized, (), kwargs=example, dynamic_shapes=shapes)
    torch.export.save(saved, f"{out}/model.pt2")


if __name__ == "__main__":
    quantize(*sys.argv[1:])
