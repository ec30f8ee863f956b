"""A decoder's two graphs: every target's answer as torch does, and say the same tokens one after the other."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from export.decoder_graphs import PAST, PRESENT, STEP_FILE, keeps_past, list_kept
from export.engine import BuildSettings, audit, build
from export.exported import Lowering, export, write_exported
from export.runners.base import Arrays
from export.runners.greedy_decoder import GreedyDecoder
from export.runners.load import load_runner
from export.runners.load_decoder import load_decoder
from export.settings import ExportSettings
from export.targets import find_target
from qat.artefacts import read_manifest
from qat.errors import CheckpointError, DataError, ExportError
from qat.quantizer import disable_quantizers
from tests.test_export.traced_decoder import TracedDecoder
from tests.this_cpu import EXACT_RUNTIMES, HAS_AVX512
from tests.tiny import MAX_LENGTH, tiny_bert
from tests.tiny_decoders import Batch, decoder_batch, make_calibrated_decoder
from tests.tolerances import FLIPPED_ROWS, FLOAT_FP16, GRAPH_FP32

EXACT = [
    pytest.param("onnxruntime", True, id="onnxruntime"),
    *(
        pytest.param(target, quantized, id=f"{target}-{quantized}", marks=pytest.mark.long)
        for target, quantized in (
            *(("onnxruntime", False), ("openvino", False), ("rtx", True)),
            *((target, True) for target in EXACT_RUNTIMES if target != "onnxruntime"),
        )
    ),
]
PROMPTS = 20


def to_arrays(batch: Batch) -> dict[str, NDArray[np.int64]]:
    return {name: x.numpy() for name, x in batch.items()}


def torch_pair(model: PreTrainedModel, batch: Batch, token: torch.Tensor) -> list[NDArray[np.float32]]:
    """The logits of prompts, what is kept of them, and the logits of one token more."""
    mask, cache = batch["attention_mask"], DynamicCache()
    layers: Any = cache.layers
    with torch.no_grad():
        first = model(**batch, past_key_values=cache, use_cache=True).logits
        kept = [x.clone() for layer in layers for x in (layer.keys, layer.values)]
        second = model(
            input_ids=token,
            attention_mask=torch.cat([mask, torch.ones_like(token)], dim=1),
            position_ids=mask.sum(dim=1, keepdim=True),
            past_key_values=cache,
        ).logits
    return [x.numpy() for x in (first, *kept, second)]


def graph_pair(folder: Path, batch: Batch, token: torch.Tensor) -> list[NDArray[np.generic]]:
    """The same from an exported folder, node by node."""
    mask = batch["attention_mask"].numpy()
    runners = [load_runner(folder / name, optimized=False, kept=True) for name in ("model.onnx", STEP_FILE)]
    first = runners[0].infer(to_arrays(batch))
    kept = {name: x for name, x in first.items() if name.startswith(PRESENT)}
    second: Arrays = runners[1].infer(
        {
            "input_ids": token.numpy(),
            "attention_mask": np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1),
            "position_ids": mask.sum(axis=1, keepdims=True),
            **{PAST + name.removeprefix(PRESENT): x for name, x in kept.items()},
        }
    )
    return [first["logits"], *kept.values(), second["logits"]]


def errors(folder: Path, model: PreTrainedModel, batch: Batch) -> list[float]:
    """The largest differences of logits, of what is kept, and of logits again, relative to the largest value."""
    token = torch.full((len(batch["input_ids"]), 1), 7)
    real = batch["attention_mask"].numpy() == 1
    found = []
    pairs = zip(graph_pair(folder, batch, token), torch_pair(model, batch, token), strict=True)
    for place, (ours, theirs) in enumerate(pairs):
        apart = np.abs(ours.astype(np.float32) - theirs)
        if place == 0:
            apart = apart[real]
        elif apart.ndim == 4:
            apart = apart.swapaxes(1, 2)[real]
        found.append(float(apart.max() / np.abs(theirs).max()))
    return found


def test_graphs_are_named_as_onnx_decoders_name_them(decoder: TracedDecoder, tmp_path: Path) -> None:
    folder = decoder.write(tmp_path / "onnx", "onnxruntime", "fp32")
    whole, step = (onnx.load(folder / name).graph for name in ("model.onnx", STEP_FILE))
    kept = list_kept(1)
    assert [each.name for each in whole.input] == ["input_ids", "attention_mask"]
    assert [each.name for each in step.input][:3] == ["input_ids", "attention_mask", "position_ids"]
    assert [each.name for each in step.input][3:] == [f"past_key_values.{each}" for each in kept]
    for graph in (whole, step):
        assert [each.name for each in graph.output] == ["logits", *(f"present.{each}" for each in kept)]
    shapes = {each.name: each.type.tensor_type.shape.dim for each in step.input}
    axes = {name: [dim.dim_param or dim.dim_value for dim in shape] for name, shape in shapes.items()}
    assert axes["attention_mask"] == ["batch", "past + 1"]
    assert axes["past_key_values.0.value"] == ["batch", 2, "past", 32]
    manifest = read_manifest(folder)
    assert manifest["graphs"] == {"whole": "model.onnx", "step": STEP_FILE}
    assert manifest["bytes"] == sum((folder / name).stat().st_size for name in ("model.onnx", STEP_FILE))


@pytest.mark.parametrize(("target", "quantized"), EXACT)
def test_both_graphs_compute_what_torch_does(
    decoder: TracedDecoder, tmp_path: Path, target: str, *, quantized: bool
) -> None:
    folder = decoder.write(tmp_path / "onnx", target, "fp32", quantized=quantized)
    shapes = ((1, 1), (3, 11), (2, MAX_LENGTH - 1))
    batches = [decoder_batch(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    if quantized:
        found = [errors(folder, decoder.model, batch) for batch in batches]
    else:
        with disable_quantizers(decoder.model):
            found = [errors(folder, decoder.model, batch) for batch in batches]
    assert max(error for each in found for error in each) < GRAPH_FP32.value


@pytest.mark.long
def test_half_precision_rounds_what_is_kept_once(decoder: TracedDecoder, tmp_path: Path) -> None:
    folder = decoder.write(tmp_path / "onnx", "rtx", "fp16", quantized=False)
    with disable_quantizers(decoder.model):
        assert max(errors(folder, decoder.model, decoder_batch(3, 11))) < FLOAT_FP16.value
    kept = graph_pair(folder, decoder_batch(3, 11), torch.full((3, 1), 7))[1]
    assert kept.dtype == np.float32
    assert np.array_equal(kept, kept.astype(np.float16).astype(np.float32))


def say_in_torch(model: PreTrainedModel, batch: Batch, new: int) -> NDArray[np.int64]:
    """What transformers' own greedy search says; it wants the padding in front."""
    rows, generate = [], cast(Any, model).generate
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        prompt = ids[mask == 1][None]
        said = generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, do_sample=False, pad_token_id=0
        )
        rows.append(said[0, prompt.shape[1] :].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("quantized", [True, False])
def test_greedy_decoding_says_what_torch_says(decoder: TracedDecoder, tmp_path: Path, *, quantized: bool) -> None:
    batch = decoder_batch(PROMPTS, 12, seed=9)
    folder = decoder.write(tmp_path / "onnx", "onnxruntime", "fp32", quantized=quantized)
    with load_decoder(folder, optimized=False) as runner:
        ours = runner.generate(*to_arrays(batch).values(), max_new_tokens=32).tokens
    if quantized:
        theirs = say_in_torch(decoder.model, batch, 32)
    else:
        with disable_quantizers(decoder.model):
            theirs = say_in_torch(decoder.model, batch, 32)
    assert ours.shape == (PROMPTS, 32)
    assert len(np.unique(ours)) > 5
    assert (ours != theirs).any(axis=1).sum() <= (FLIPPED_ROWS.value if quantized else 0)


def test_a_row_that_has_ended_says_padding(decoder: TracedDecoder, tmp_path: Path) -> None:
    batch = to_arrays(decoder_batch(6, 12, seed=9))
    with load_decoder(decoder.write(tmp_path / "onnx", "onnxruntime", "fp32")) as runner:
        free = runner.generate(*batch.values(), max_new_tokens=10).tokens
        end = int(free[0, 2])
        ended = runner.generate(*batch.values(), max_new_tokens=10, ends=end, pad=1).tokens
        alone = runner.generate(*(x[:1] for x in batch.values()), max_new_tokens=10, ends=end, pad=1).tokens
    first = int(np.flatnonzero(free[0] == end)[0])
    assert ended[0, : first + 1].tolist() == free[0, : first + 1].tolist()
    assert set(ended[0, first + 1 :].tolist()) <= {1}
    assert alone.shape == (1, first + 1)


def test_prompts_that_cannot_be_read_are_refused(decoder: TracedDecoder, tmp_path: Path) -> None:
    runner: GreedyDecoder
    with load_decoder(decoder.write(tmp_path / "onnx", "onnxruntime", "fp32")) as runner:
        for mask, new, said in (
            ([[0, 1]], 1, "prompts padded in front were given: expected padding behind (padding_side='right')"),
            ([[0, 0]], 1, "a prompt without a token was given: expected at least one, such as [CLS]"),
            (
                [[1, 1]],
                MAX_LENGTH,
                "64 tokens after a prompt of 2 were asked for, but the model takes 64: ask for 63 at most "
                "(--new-tokens), or cut prompts to 1 (--max-length)",
            ),
        ):
            with pytest.raises(DataError) as caught:
                runner.generate(np.array([[5, 6]]), np.array(mask), max_new_tokens=new)
            assert str(caught.value) == said
        assert runner.generate(np.array([[5, 6]]), np.array([[1, 1]]), max_new_tokens=63).tokens.shape == (1, 63)


def test_a_folder_without_a_step_is_no_decoder(decoder: TracedDecoder, tmp_path: Path) -> None:
    lowering = Lowering(find_target("onnxruntime"), "fp32")
    made = write_exported(decoder.whole, decoder.model, tmp_path / "onnx", lowering=lowering, tokenizer=None)
    with pytest.raises(CheckpointError) as caught:
        load_decoder(made.folder)
    assert str(caught.value) == (
        f"{made.folder} has no model_with_past.onnx, the graph that says one token more: give a folder that qdq export "
        "wrote of a checkpoint for text-generation"
    )


def test_an_encoder_has_no_step() -> None:
    assert not keeps_past(tiny_bert())


def test_cross_attention_and_one_shape_have_no_graphs(decoder: TracedDecoder, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(make_calibrated_decoder(states=5, layers=1), tmp_path / "onnx")
    assert str(caught.value) == (
        "a decoder with cross-attention has no graphs here (add_cross_attention is true in its config.json): it reads "
        "another model's states, which no input holds; run it in torch, or export a decoder without it"
    )
    with pytest.raises(ExportError) as caught:
        export(decoder.model, tmp_path / "onnx", settings=ExportSettings(shape=(8, 32)))
    assert str(caught.value) == (
        "export.shape 8x32 was asked for, but a decoder has one token more at each step: export it without export.shape"
    )
    inputs = ExportSettings(inputs=("input_ids", "attention_mask"))
    with pytest.raises(ExportError) as caught:
        export(decoder.model, tmp_path / "onnx", settings=inputs)
    assert str(caught.value) == (
        "export.inputs input_ids, attention_mask was asked for, but the graphs of a decoder have inputs of their own: "
        "export it without export.inputs"
    )
    assert not (tmp_path / "onnx").exists()


def test_every_planned_product_of_both_graphs_is_int8(decoder: TracedDecoder, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    folder = decoder.write(tmp_path / "onnx", "rtx", "fp16")
    settings = BuildSettings(shapes="1x1,4x16,8x63", hardware=("sm_89",))
    for name in ("model.onnx", STEP_FILE):
        made = build(folder / name, folder / f"{name}.engine", settings=settings)
        assert (made.audit.status, made.audit.float_gemms) == ("complete", 0)
        assert made.audit.int8_gemms == 4


@pytest.mark.long
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_cpu_runtimes_run_both_graphs_in_int8(decoder: TracedDecoder, tmp_path: Path, target: str) -> None:
    folder = decoder.write(tmp_path / "onnx", target, "fp32")
    split = target == "openvino" and not HAS_AVX512
    for name in ("model.onnx", STEP_FILE):
        assert audit(folder / name).float_gemms <= split  # one product of the attention
