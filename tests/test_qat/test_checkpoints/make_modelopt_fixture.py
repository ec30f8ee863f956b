"""Makes ``fixtures/modelopt-bert``: a BERT that NVIDIA ModelOpt calibrated for INT8, with what it computes.

Run by hand, in an environment with ModelOpt 0.47 (``python -m benchmarks.peers prepare`` makes one) and transformers 5:

    python tests/test_qat/test_checkpoints/make_modelopt_fixture.py

The ranges are those of its INT8 default, all of them; the answers are computed with the quantizers of pooler,
classifier and LayerNorm off, which no recipe of ours has.
"""

import hashlib
import json
import shutil
from pathlib import Path

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from modelopt.torch.quantization.nn import TensorQuantizer
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

FOLDER = Path(__file__).parent / "fixtures/modelopt-bert"


def main() -> None:
    config = BertConfig(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=10,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    mask = (torch.arange(7) < torch.tensor([[7], [4]])).long()
    inputs = {"input_ids": torch.randint(1, 16, (2, 7)) * mask, "attention_mask": mask}
    rows = torch.randint(1, 16, (16, 7))
    mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda calibrated: calibrated(rows))
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    state = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
    config.architectures = ["BertForSequenceClassification"]
    config.save_pretrained(FOLDER)
    save_file(state, FOLDER / "model.safetensors", metadata={"format": "pt"})
    for name, module in model.named_modules():
        if isinstance(module, TensorQuantizer) and any(part in name for part in ("pooler", "classifier", "LayerNorm")):
            module.disable()
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    arrays = {f"in.{name}": value.numpy() for name, value in inputs.items()}
    np.savez_compressed(FOLDER / "answers.npz", **arrays, **{"out.logits": logits})
    hashes = {
        name: hashlib.sha256(value.numpy().tobytes()).hexdigest()[:16]
        for name, value in sorted(state.items())
        if "_quantizer" not in name
    }
    (FOLDER / "expected.json").write_text(json.dumps(hashes, indent=0) + "\n")


if __name__ == "__main__":
    main()
