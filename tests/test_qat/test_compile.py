"""``torch_compile=True``: a compiled model trains as the eager one does, in whole graphs that serve any width."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters
from transformers import PreTrainedModel, Trainer, TrainingArguments

from qat.batches import Collator
from tests import tolerances
from tests.calibrated import encode_tiny, make_calibrated
from tests.tiny import tiny_albert, tiny_bert

STEPS = 4
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


def train(model: PreTrainedModel, folder: Path, *, compiled: bool) -> list[float]:
    """The loss of every step; what is saved has the names and values of the eager model."""
    make_calibrated(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=8, learning_rate=1e-4, logging_steps=1,
        torch_compile=compiled, save_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        use_cpu=True,
    )  # fmt: skip
    rows = encode_tiny(32, seed=1)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=Collator(pad_token_id=0))
    trainer.train()
    trainer.save_model(str(folder / "saved"))
    saved = load_file(folder / "saved" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], values) for name, values in model.state_dict().items())
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.long
@pytest.mark.parametrize("make", [tiny_bert, tiny_albert])
def test_a_compiled_model_trains_as_the_eager_one(
    make: Callable[..., PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for the width of the first batch, once or twice for any width: a depth of ALBERT's is part of the graph."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))  # not what a broken-off run left
    torch._dynamo.reset()
    counters.clear()
    found = train(make(num_hidden_layers=2), tmp_path / "compiled", compiled=True)
    assert dict(counters["graph_break"]) == {}
    assert 1 <= counters["stats"]["unique_graphs"] <= 3
    expected = train(make(num_hidden_layers=2), tmp_path / "eager", compiled=False)
    assert len(found) == STEPS
    assert found == pytest.approx(expected, abs=tolerances.COMPILED.value)
