"""Two processes, each with half of the rows, train what one process trains on all of them."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSequenceClassification, PreTrainedModel, Trainer, TrainingArguments

from qat.batches import Collator
from qat.families import find_family
from qat.huggingface import quantization_config
from qat.learned_ranges import learning_ranges
from qat.sharding import gather_whole
from qat.trainer import QATTrainer
from tests import tolerances
from tests.calibrated import encode_tiny, make_calibrated, tiny_batches
from tests.ranks import RANKS, run_ranks
from tests.test_qat.test_families import enable_checkpointing
from tests.test_qat.wrapped import FAMILIES, FamilyName, make_wrapped
from tests.tiny import tiny_albert, tiny_bert

PLAIN, LEARNED, CHEAP = "plain", "learned ranges", "bf16, checkpointed"
CASES = [(family, way) for family in FAMILIES for way in (PLAIN, LEARNED, CHEAP)]
case = pytest.mark.parametrize(("family", "way"), CASES)
Tensors = dict[str, Tensor]


def halves() -> list[Tensors]:
    """Eight rows in two batches of one width, so that padding is the same in both."""
    (batch,) = tiny_batches(8)
    return [{name: values[part] for name, values in batch.items()} for part in (slice(4), slice(4, 8))]


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """``model``, whose answers no longer depend on which process draws the mask."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def find_gradients(family: FamilyName, way: str, batches: list[Tensors], wrap: Callable[..., Any]) -> Tensors:
    """The gradients of the mean loss of those batches, run by ``wrap(model)``."""
    model = without_dropout(make_wrapped(family))
    with ExitStack() as stack:
        if way == LEARNED:
            stack.enter_context(learning_ranges(model))
        if way == CHEAP:
            enable_checkpointing(model.train(), use_reentrant=False)
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        wrapped = wrap(model)
        for batch in batches:
            (wrapped(**batch).loss / len(batches)).backward()
        return {name: gather_whole(each.grad) for name, each in model.named_parameters() if each.grad is not None}


def shard(model: PreTrainedModel) -> PreTrainedModel:
    """``model``, every layer and the rest a unit of FSDP's."""
    mesh = init_device_mesh("cpu", (RANKS,))
    for _, layer in find_family(model.config.model_type).layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def take_step(family: FamilyName, batches: list[Tensors], wrap: Callable[..., Any]) -> PreTrainedModel:
    """A model after one long step on those batches."""
    model = without_dropout(make_wrapped(family))
    wrapped = wrap(model)
    for batch in batches:
        (wrapped(**batch).loss / len(batches)).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return model


class Sharding(QATTrainer):
    """The trainer as it is with ``fsdp=True`` where there is an accelerator; on a CPU accelerate leaves FSDP out."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="FULL_STATE_DICT")
        AcceleratorState.is_fsdp2 = True
        self.is_fsdp_enabled = True


def train_with(kind: type[Trainer], model: PreTrainedModel, out: Path, micro_batches: int) -> None:
    arguments = TrainingArguments(
        output_dir=str(out.with_name(f"{out.name}-trainer")), max_steps=4, per_device_train_batch_size=4,
        gradient_accumulation_steps=micro_batches, learning_rate=1e-3, save_strategy="no", report_to=[],
        disable_tqdm=True, dataloader_pin_memory=False, use_cpu=True,
    )  # fmt: skip
    trainer = kind(
        model=model, args=arguments, train_dataset=encode_tiny(32, seed=1), data_collator=Collator(pad_token_id=0)
    )
    trainer.train()
    trainer.save_model(str(out))


def train_stock(out: Path, micro_batches: int, kind: type[Trainer] = Trainer) -> None:
    train_with(kind, make_calibrated(without_dropout(tiny_bert())), out, micro_batches)


def train_learned(out: Path, micro_batches: int, kind: type[Trainer] = QATTrainer) -> None:
    model = make_calibrated(without_dropout(tiny_albert()))
    with learning_ranges(model):
        train_with(kind, model, out, micro_batches)


WRAPPERS: dict[str, Callable[..., Any]] = {"DDP": DistributedDataParallel, "FSDP": shard}
TRAININGS: dict[str, Callable[..., None]] = {"stock": train_stock, "learned": train_learned}


def work(folder: Path) -> None:
    rank = distributed.get_rank()
    for how, wrap in WRAPPERS.items():
        for family, way in CASES:
            found = find_gradients(family, way, [halves()[rank]], wrap)
            torch.save(found, folder / f"{how}-{family}-{way}-{rank}.pt")
    for family in FAMILIES:
        model = take_step(family, [halves()[rank]], shard)
        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0:
            model.save_pretrained(folder / family, state_dict=weights)
    for name, training in TRAININGS.items():
        training(folder / name, 1)


def work_sharded(folder: Path) -> None:
    for name, training in TRAININGS.items():
        training(folder / f"sharded-{name}", 1, Sharding)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes left."""
    folder = tmp_path_factory.mktemp("parallel")
    run_ranks(work, folder)
    run_ranks(work_sharded, folder)  # accelerate keeps one state for a process
    return folder


@case
@pytest.mark.parametrize("how", WRAPPERS)
def test_gradients_are_those_of_one_process(how: str, family: FamilyName, way: str, parallel: Path) -> None:
    """Bit by bit: what the two processes average is what one adds up over two micro-batches."""
    alone = find_gradients(family, way, halves(), lambda model: model)
    assert any(name.endswith("amax") for name in alone) == (way == LEARNED)
    for rank in range(RANKS):
        found = torch.load(parallel / f"{how}-{family}-{way}-{rank}.pt")
        assert found.keys() == alone.keys()
        assert [name for name in alone if not torch.equal(found[name], alone[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", [PLAIN, LEARNED])
def test_micro_batches_add_up_to_one_batch(family: FamilyName, way: str) -> None:
    whole = find_gradients(family, way, tiny_batches(8), lambda model: model)
    added = find_gradients(family, way, halves(), lambda model: model)
    assert added.keys() == whole.keys()
    largest = max(float(each.abs().max()) for each in whole.values())
    for name, gradient in whole.items():
        size = max(float(gradient.abs().max()), 1e-3 * largest)  # that of a key's bias is zero but for rounding
        assert float((added[name] - gradient).abs().max()) <= tolerances.MICRO_BATCHES.value * size, name


@pytest.mark.parametrize("name", TRAININGS)
def test_trainer_saves_what_one_process_saves(name: str, parallel: Path, tmp_path: Path) -> None:
    """Bit by bit: one process adds up over two micro-batches what two processes average."""
    TRAININGS[name](tmp_path / "alone", RANKS)
    alone, together = (load_file(folder / "model.safetensors") for folder in (tmp_path / "alone", parallel / name))
    assert together.keys() == alone.keys()
    assert [key for key in alone if not torch.equal(together[key], alone[key])] == []
    loaded = AutoModelForSequenceClassification.from_pretrained(parallel / name)
    assert quantization_config(loaded).state == "calibrated"


@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_weights_are_saved_whole_with_their_ranges(family: FamilyName, parallel: Path) -> None:
    alone = take_step(family, halves(), lambda model: model).state_dict()
    loaded = AutoModelForSequenceClassification.from_pretrained(parallel / family).state_dict()
    assert loaded.keys() == alone.keys()
    assert [key for key in alone if not torch.equal(loaded[key], alone[key])] == []
    start = make_wrapped(family).state_dict()
    ranges = [key for key in start if key.endswith("weight_quantizer.amax")]
    assert any(not torch.equal(loaded[key], start[key]) for key in ranges)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_trainer_that_shards_saves_what_one_process_saves(name: str, parallel: Path, tmp_path: Path) -> None:
    TRAININGS[name](tmp_path / "alone", RANKS)
    alone, sharded = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "alone", parallel / f"sharded-{name}")
    )
    assert sharded.keys() == alone.keys()
    for key, values in alone.items():
        assert float((sharded[key] - values).abs().max()) <= tolerances.SHARDED_STEPS.value, key
