"""What a decoder says in INT8: ``python -m benchmarks.generation CHECKPOINT --data FILE --eval FILE --out FILE``.

Perplexity from FP32 to the graphs, and greedy decoding of the same prompts in torch and on ONNX Runtime, float and
quantized. Both sides of a comparison compute the same numbers but for the order of FP32 sums: where that moves a value
over a rounding tie, a row may take another way from there on. So torch also goes along, token by token, on the graphs'
side of each tie, and says the next token: apart from ties the two must be one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.accuracy import measure_accuracy
from benchmarks.environment import describe_environment
from calibration.quantize import quantize_rows
from export.decoder_graphs import STEP_FILE
from export.exported import MODEL_FILE, Lowering, trace_model, trace_next, write_exported
from export.layer_compare import FollowedGraph, TensorAgreement
from export.runners.base import AlwaysOpen, Arrays, Runner
from export.runners.greedy_decoder import GreedyDecoder
from export.runners.load import load_runner
from export.runners.load_decoder import load_decoder
from export.runners.torch_decoder import split_decoder
from export.targets import find_target
from qat.artefacts import require_writable, write_json
from qat.checkpoint import Checkpoint, load_checkpoint
from qat.commands import encode_rows
from qat.console import print_json, say
from qat.families import longest_row
from qat.finetune import TrainingPlan, train_rows
from qat.finetune_settings import FinetuneSettings
from qat.huggingface import quantization_config
from qat.quantizer import disable_quantizers
from qat.recipe import Recipe
from qat.scoring import Accuracy, infer_with, score_rows
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord

_TASK = "text-generation"
_PROMPT = 8
"""Tokens of a prompt, and at least as many that its text goes on for."""

_NEW_TOKENS = 32
_BATCH = 20
_CALIBRATION = 256
Tokens = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How to train, and how much to say: ``new_tokens`` after each of the ``prompts``."""

    settings: FinetuneSettings
    prompts: int
    new_tokens: int


def cut_prompts(rows: Encoded, count: int, tokens: int, following: int) -> Tokens:
    """The first ``tokens`` of the first ``count`` rows that go on for ``following`` more, ``(count, tokens)``."""
    found = [ids[:tokens] for ids in rows.sequences if len(ids) >= tokens + following]
    return np.array(found[:count], np.int64)


def say_in_torch(model: PreTrainedModel, prompts: Tokens, new: int, *, cache: bool = True) -> Tokens:
    """What transformers' greedy search says, ``(prompts, new)``; without a cache it reads everything at each step."""
    said = []
    for part in _split(prompts):
        ids = torch.from_numpy(part)
        found: Any = model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, use_cache=cache
        )
        said.append(found[:, part.shape[1] :].numpy())
    return np.concatenate(said)


def say_in_graphs(folder: Path, prompts: Tokens, new: int) -> Tokens:
    """What the loop over an exported folder's graphs says, node by node as they were exported."""
    with load_decoder(folder, optimized=False) as runner:
        return _say(runner, prompts, new)


def _say(decoder: GreedyDecoder, prompts: Tokens, new: int) -> Tokens:
    parts = [decoder.generate(part, np.ones_like(part), max_new_tokens=new).tokens for part in _split(prompts)]
    return np.concatenate(parts)


def compare_said(first: Tokens, second: Tokens) -> dict[str, float]:
    """The shares of equal tokens and of prompts all of whose tokens are.

    >>> compare_said(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]))
    {'tokens': 0.75, 'prompts': 0.5}
    """
    same = first == second
    return {"tokens": float(same.mean()), "prompts": float(same.all(axis=1).mean())}


def follow_graphs(model: PreTrainedModel, folder: Path, prompts: Tokens, new: int) -> tuple[Tokens, dict[str, float]]:
    """What the graphs say, and whether torch says each of their tokens where it takes their side of every rounding tie.

    Args:
        model: the quantized decoder.
        folder: what was exported of it.
        prompts: ``(prompts, tokens)``.
        new: tokens said after each.

    Returns:
        what ``say_in_graphs`` does; the shares of ``compare_said``; of the values between two quantizers how many have
        another level, by how many steps at most, and how far from a tie at most, relative to their range.
    """
    prompt, step = (
        _FollowedRunner(FollowedGraph(folder / name, model, part), part)
        for name, part in zip((MODEL_FILE, STEP_FILE), split_decoder(model), strict=True)
    )
    decoder = GreedyDecoder(prompt, step, longest=longest_row(model.config))
    said = _say(decoder, prompts, new)
    steps = iter(step.tokens)
    followed = [np.stack([first, *islice(steps, new - 1)], axis=1) for first in prompt.tokens]
    found = prompt.agreements + step.agreements
    return said, {
        **compare_said(np.concatenate(followed), said),
        "values": sum(each.values for each in found),
        "differing": sum(each.differing for each in found),
        "largest_step": max(each.largest_step for each in found),
        "tie_distance": max(each.tie_distance for each in found),
    }


class _FollowedRunner(AlwaysOpen):
    """One of a decoder's graphs; torch reads the same on its levels, and says its own next token, ``(batch,)`` each."""

    def __init__(self, graph: FollowedGraph, part: Runner) -> None:
        self.name, self.precision, self.inputs = "onnxruntime and torch", part.precision, part.inputs
        self._graph = graph
        self.agreements: list[TensorAgreement] = []
        self.tokens: list[Tokens] = []

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        found = self._graph.run(feed)
        self.agreements += found.agreements
        self.tokens.append(found.torch["logits"][:, -1].argmax(axis=-1))
        return found.graph


def _split(prompts: Tokens) -> Iterator[Tokens]:
    yield from (prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH))


def _export(model: PreTrainedModel, folder: Path) -> dict[str, Path]:
    """The folders of the quantized graphs and of their float twin."""
    graph, step, target = trace_model(model), trace_next(model), find_target("onnxruntime")
    return {
        name: write_exported(
            graph,
            model,
            folder / name,
            lowering=Lowering(target, "fp32", quantized=name == "quantized"),
            tokenizer=None,
            step=step,
        ).folder
        for name in ("quantized", "float")
    }


def _quantize(checkpoint: Checkpoint, training: Encoded) -> None:
    rows = training.pick(range(min(_CALIBRATION, len(training))))
    quantize_rows(checkpoint, rows, Recipe.load("tensorrt").for_target("rtx"), target="rtx", batch_size=_BATCH)
    quantization_config(checkpoint.model).task = TaskRecord.of(
        find_task(_TASK), {}, None, rows, checkpoint.model.config
    ).to_dict()


def measure_generation(
    checkpoint: Checkpoint, teacher: PreTrainedModel, training: Encoded, rows: Encoded, asked: Asked
) -> dict[str, Any]:
    """The figures of a float decoder, which is quantized, trained and exported on the way.

    Args:
        checkpoint: the decoder.
        teacher: the same, which stays float.
        training: texts to calibrate and train on.
        rows: texts to score and prompt with.
        asked: how much.
    """
    model, task, pad = checkpoint.model, find_task(_TASK), checkpoint.pad_token_id
    prompts = cut_prompts(rows, asked.prompts, _PROMPT, _PROMPT)
    scores: dict[str, Accuracy] = {}

    def score(stage: str) -> None:
        say(f"{stage} ...")
        scores[stage] = score_rows(infer_with(model), rows, task, pad_token_id=pad, batch_size=_BATCH)

    score("fp32")
    _quantize(checkpoint, training)
    score("ptq")
    train_rows(model, training, TrainingPlan(settings=asked.settings, pad_token_id=pad, teacher=teacher))
    score("qat")
    with TemporaryDirectory() as folder:
        folders = _export(model, Path(folder))
        say("onnx ...")
        runner = load_runner(folders["quantized"], optimized=False)
        scores["onnx"] = measure_accuracy(runner, rows, task, pad_token_id=pad, batch_size=_BATCH)
        say("generate ...")
        in_float = say_in_graphs(folders["float"], prompts, asked.new_tokens)
        in_int8, followed = follow_graphs(model, folders["quantized"], prompts, asked.new_tokens)
    quantized = say_in_torch(model, prompts, asked.new_tokens)
    with disable_quantizers(model):
        plain = say_in_torch(model, prompts, asked.new_tokens)
    return {
        "scores": {stage: dict(found.metrics) for stage, found in scores.items()},
        "tokens_scored": scores["fp32"].n,
        "next_token_torch_and_graph": float(task.agree(scores["qat"].outputs, scores["onnx"].outputs, rows).mean()),
        "prompts": len(prompts),
        "new_tokens": asked.new_tokens,
        "said_by_torch_and_graphs": compare_said(quantized, in_int8),
        "said_but_for_ties": followed,
        "said_by_torch_and_graphs_in_float": compare_said(plain, in_float),
        "said_with_and_without_cache": compare_said(
            quantized, say_in_torch(model, prompts, asked.new_tokens, cache=False)
        ),
        "said_by_int8_and_fp32": compare_said(quantized, say_in_torch(teacher, prompts, asked.new_tokens)),
        "different_tokens_a_prompt": float(np.mean([len(set(row.tolist())) for row in quantized])),
    }


def generation_command(
    checkpoint: Annotated[Path, typer.Argument(help="Float decoder.")],
    data: Annotated[Path, typer.Option(help="Texts to calibrate and train on.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Texts to score and prompt with.")],
    out: Annotated[Path, typer.Option(help="JSON file of the result.")],
    steps: Annotated[int, typer.Option(help="Of QAT, distilled from the float model.")] = 50,
    prompts: Annotated[int, typer.Option(help="How many.")] = 100,
) -> None:
    """Score a decoder from FP32 to its graphs, and compare what they say."""
    require_writable(out)
    task = find_task(_TASK)
    loaded, teacher = (load_checkpoint(checkpoint, task) for _ in range(2))
    for each in (loaded, teacher):
        each.model.generation_config.eos_token_id = None  # every row goes on
    training, rows = (encode_rows(loaded, task, TaskRecord(name=_TASK), path) for path in (data, evaluation))
    settings = FinetuneSettings(max_steps=steps, batch_size=16, held_out=64, evaluations=2)
    asked = Asked(settings=settings, prompts=prompts, new_tokens=_NEW_TOKENS)
    found = measure_generation(loaded, teacher.model, training, rows, asked)
    result = {"checkpoint": checkpoint.name, **found, "environment": describe_environment()}
    write_json(out, result)
    print_json(result)


if __name__ == "__main__":
    typer.run(generation_command)
