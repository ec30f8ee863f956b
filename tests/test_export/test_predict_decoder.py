"""What a decoder says after texts: the same tokens in torch and on every CPU runner, as transformers generates them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

import qdq
from export.predict import Asking, Predictor
from export.runners.running import Running
from qat.artefacts import hash_file
from qat.errors import BuildError, CheckpointError, DataError, QDQError
from qat.tasks.text_generation import find_end
from tests.test_export.traced_decoder import TracedDecoder
from tests.tiny import save_tiny, tiny_bert, tiny_rows, tiny_tokenizer
from tests.tiny_decoders import tiny_decoder
from tests.told import count_other

TASK = "text-generation"
TARGETS = ("onnxruntime", "openvino")
NEW = 12
TEXTS = [str(row["text"]) for row in tiny_rows(14)]


@pytest.fixture(scope="module")
def folders(decoder: TracedDecoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One decoder in float: its checkpoint, and its graphs for each runtime of the CPU."""
    home = tmp_path_factory.mktemp("decoder")
    graphs = {name: decoder.write(home / name, name, "fp32", quantized=False) for name in TARGETS}
    return {"torch": save_tiny(tiny_decoder(layers=1), tiny_tokenizer(), home / "torch"), **graphs}


def refuse(call: Callable[[], object], kind: type[QDQError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def ask(**settings: Any) -> Asking:
    values: dict[str, Any] = {"new_tokens": NEW, "batch_size": 4, "optimized": False, **settings}
    return Asking(**values)


def generate(texts: list[str], new: int, model: PreTrainedModel | None = None) -> list[tuple[str, list[int]]]:
    """Each text, and what transformers' own greedy search says after it alone."""
    model, tokenizer = model or tiny_decoder(layers=1), tiny_tokenizer()
    rows = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:-1]])
        said = cast(Any, model).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=find_end(tokenizer),
            pad_token_id=0,
        )
        rows.append((text, said[0, ids.shape[1] :].tolist()))
    return rows


def test_every_cpu_runner_says_what_transformers_generates(folders: dict[str, Path]) -> None:
    tokenizer = tiny_tokenizer()
    wanted = [
        str(tokenizer.decode(tokenizer(text)["input_ids"][:-1] + ids, skip_special_tokens=True))
        for text, ids in generate(TEXTS, NEW)
    ]
    told = {name: qdq.predict(folder, TEXTS, task=TASK, asking=ask()) for name, folder in folders.items()}
    for name, rows in told.items():
        assert [row["text"] for row in rows] == wanted, name
        assert [f"{text} {row['said']}".replace(" ", "") for text, row in zip(TEXTS, rows, strict=True)] == [
            each.replace(" ", "") for each in wanted
        ]
        assert count_other(rows, told["torch"]) == 0
    assert len({row["said"] for row in told["torch"]}) > 5


def test_batches_and_streams_change_nothing(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        alone = qdq.predict(folder, TEXTS, task=TASK, asking=ask(batch_size=1))
        many = Running(goal="throughput", streams=3)
        assert count_other(qdq.predict(folder, TEXTS, task=TASK, asking=ask(running=many)), alone) == 0


def test_a_row_ends_where_the_model_ends_it(tmp_path: Path) -> None:
    model, tokenizer = tiny_decoder(layers=1), tiny_tokenizer()
    end = find_end(tokenizer)
    with torch.no_grad():
        head: Any = model.get_output_embeddings()
        head.bias[end] += 2
    folder = save_tiny(model, tokenizer, tmp_path / "ending")
    told = qdq.predict(folder, TEXTS, task=TASK, asking=ask())
    wanted = [ids for _, ids in generate(TEXTS, NEW, model)]
    assert [row["ended"] for row in told] == [end in ids for ids in wanted]
    assert len({row["ended"] for row in told}) == 2
    assert len({len(row["said"]) for row in told}) > 5
    assert all(0 < row["score"] <= 1 for row in told)
    assert [row["said"].replace(" ", "") for row in told] == [
        str(tokenizer.decode(ids, skip_special_tokens=True)).replace(" ", "").replace("##", "") for ids in wanted
    ]


def test_thirty_two_tokens_are_said_where_nobody_says_how_many(folders: dict[str, Path]) -> None:
    (told,) = qdq.predict(folders["torch"], TEXTS[:1], task=TASK)
    assert len(tiny_tokenizer()(told["said"], add_special_tokens=False)["input_ids"]) == 32


def test_prompts_are_cut_where_that_is_asked_for(folders: dict[str, Path]) -> None:
    with Predictor(folders["torch"], task=TASK, asking=ask(max_length=3)) as predictor:
        cut, short = predictor.predict(["ba du fi ze", "ba du"])
    assert predictor.truncated == 1
    assert cut == short


@pytest.mark.parametrize("name", ["torch", *TARGETS])
def test_a_prompt_that_leaves_no_room_is_refused(folders: dict[str, Path], name: str) -> None:
    text = " ".join(["ba"] * 50)
    asked = partial(qdq.predict, folders[name], [text], task=TASK)
    assert refuse(lambda: asked(asking=ask(new_tokens=20)), DataError) == (
        "20 tokens after a prompt of 51 were asked for, but the model takes 64: ask for 14 at most (--new-tokens), "
        "or cut prompts to 45 (--max-length)"
    )
    (whole,) = asked(asking=ask(new_tokens=14))
    (cut,) = asked(asking=ask(new_tokens=20, max_length=45))
    assert whole["said"].split()[0] == cut["said"].split()[0]


def test_new_tokens_are_refused_by_a_task_that_says_none(tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "float")
    message = refuse(lambda: qdq.predict(folder, ["ba"], task="text-classification", asking=ask()), DataError)
    assert message == (
        "12 new tokens were asked for, but text-classification says nothing after a text: leave --new-tokens out"
    )


def test_an_encoder_says_nothing(tmp_path: Path) -> None:
    model = tiny_decoder(layers=1)
    model.config.is_decoder = False
    folder = save_tiny(model, tiny_tokenizer(), tmp_path / "float")
    assert refuse(lambda: qdq.predict(folder, ["ba"], task=TASK), DataError) == (
        "text-generation needs a decoder, but this checkpoint sees the tokens it is to say (is_decoder is false in "
        "its config.json): fine-tune it as a decoder, or use another task"
    )


def test_a_graph_alone_stands_for_its_folder_and_a_step_does_not(folders: dict[str, Path]) -> None:
    folder = folders["onnxruntime"]
    asking = ask()
    assert qdq.predict(folder / "model.onnx", TEXTS[:2], task=TASK, asking=asking) == qdq.predict(
        folder, TEXTS[:2], task=TASK, asking=asking
    )
    step = folder / "model_with_past.onnx"
    assert refuse(lambda: qdq.predict(step, TEXTS, task=TASK), CheckpointError) == (
        f"{step} is not the graph that reads prompts: give the folder, or {folder / 'model.onnx'}"
    )


def test_an_engine_of_one_graph_is_refused(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, engine = folders["onnxruntime"] / "model.onnx", tmp_path / "model.engine"
    inputs = {"model.onnx": {"path": str(graph), "hash": hash_file(graph)}}
    monkeypatch.setattr("export.runners.artefact.require_runnable", lambda path: {"inputs": inputs})
    assert refuse(lambda: qdq.predict(engine, ["ba"], task=TASK), BuildError) == (
        f"{engine} is the engine of one of a decoder's two graphs, and going on with a text takes both: give the "
        "exported folder that it was built from, or the checkpoint"
    )


@pytest.mark.parametrize(("name", "runtime"), [("torch", "torch"), ("openvino", "OpenVINO")])
def test_a_provider_is_for_graphs_that_onnx_runtime_runs(folders: dict[str, Path], name: str, runtime: str) -> None:
    asking = ask(running=Running(provider="CPU"))
    assert refuse(lambda: qdq.predict(folders[name], ["ba"], task=TASK, asking=asking), BuildError) == (
        f"--provider CPU is one of ONNX Runtime's, but this artefact runs on {runtime}: leave it out, or export for "
        "rtx, tensorrt or onnxruntime"
    )
