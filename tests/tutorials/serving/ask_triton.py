"""Labels of texts from a Triton server: ``python ask_triton.py localhost:8000 REPOSITORY/MODEL "a text" "another"``.

Needs transformers, ``tritonclient[http]`` and the model's folder, for its tokenizer and labels; neither torch nor qdq.
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer
from tritonclient.http import InferenceServerClient, InferInput

STEP = 16
"""Rows are padded to multiples of this: a server puts only requests of one length together."""


def main(url: str, folder: str, *texts: str) -> list[str]:
    """The label of each text."""
    model = Path(folder)
    facts = json.loads((model / "qdq.json").read_text(encoding="utf-8"))
    labels = (model / "labels.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")
    lengths = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
    by_length = sorted(range(len(texts)), key=lengths.__getitem__)  # rows of like length together: little padding
    most = facts["plan"]["max_batch"]
    answers: dict[int, str] = {}
    with InferenceServerClient(url) as client:
        names = [each["name"] for each in client.get_model_metadata(model.name)["inputs"]]
        for start in range(0, len(texts), most):
            rows = by_length[start : start + most]
            encoded = tokenizer(
                [texts[row] for row in rows],
                padding=True,
                pad_to_multiple_of=STEP if facts["max_length"] % STEP == 0 else None,
                truncation=True,
                max_length=facts["max_length"],
                return_tensors="np",
            )
            inputs = [InferInput(name, encoded[name].shape, "INT64") for name in names]
            for each in inputs:
                each.set_data_from_numpy(encoded[each.name()].astype("int64"))
            logits = client.infer(model.name, inputs).as_numpy("logits")
            answers |= {row: labels[number] for row, number in zip(rows, logits.argmax(axis=1), strict=True)}
    return [answers[row] for row in range(len(texts))]


if __name__ == "__main__":
    for text, label in zip(sys.argv[3:], main(*sys.argv[1:]), strict=True):
        print(f"{label}\t{text}")
