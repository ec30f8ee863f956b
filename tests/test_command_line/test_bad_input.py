"""Every mistake ends with code 2, nothing on standard output, one line on standard error, and no file anywhere."""

from pathlib import Path

import pytest
import torch

from qat.huggingface import wrap
from qat.tasks import list_tasks
from tests.test_command_line.calling import Workspace, call, list_tree, make_workspace, write_rows
from tests.tiny import save_tiny, tiny_bert, tiny_tokenizer

TASK = ("--task", "text-classification")
CALIBRATE = ("calibrate", "{d}/float", *TASK, "--data", "{d}/train.jsonl", "--out", "{d}/new")
RUN = ("run", "{d}/float", *TASK, "--data", "{d}/train.jsonl", "--eval", "{d}/validation.jsonl", "--out", "{d}/new")
FINETUNE = ("finetune", "{d}/calibrated", "--data", "{d}/train.jsonl", "--out", "{d}/new")
KNOWN = ", ".join(task.name for task in list_tasks())
RECIPE = """
name = "mine"
wieghts = "per_tensor"
rules = [{layers = "*", roles = ["weight", "input"], quantize = true}]
"""


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with one of everything that can be wrong; its calibrated folder is for ``onnxruntime``."""
    made = make_workspace(tmp_path_factory.mktemp("bad"))
    folder, tokenizer = made.folder, tiny_tokenizer()
    done = call(*spell(CALIBRATE, folder)[:-1], folder / "calibrated", "--target", "onnxruntime")
    assert done.code == 0
    uncalibrated = tiny_bert()
    wrap(uncalibrated)
    save_tiny(uncalibrated, tokenizer, folder / "uncalibrated")
    broken = tiny_bert()
    with torch.no_grad():
        broken.get_parameter("bert.encoder.layer.1.attention.self.key.weight")[3, 4] = float("nan")
    save_tiny(broken, tokenizer, folder / "nan")
    (folder / "folder").mkdir()
    (folder / "gpt").mkdir()
    (folder / "gpt" / "config.json").write_text('{"model_type": "albrt"}')
    (folder / "empty.jsonl").write_text("")
    write_rows(folder / "labels.jsonl", [{"text": "ba", "label": "animal"}, {"text": "be", "label": "animul"}])
    write_rows(folder / "columns.jsonl", [{"sentence": "ba", "label": "animal"}])
    (folder / "recipe.toml").write_text(RECIPE)
    return made


def spell(arguments: tuple[str, ...], folder: Path) -> list[str]:
    return [argument.format(d=folder) for argument in arguments]


def expect(bad: Workspace, arguments: tuple[str, ...], message: str) -> None:
    before = list_tree(bad.folder)
    done = call(*spell(arguments, bad.folder))
    assert (done.code, done.out) == (2, "")
    assert done.err == f"qdq: {message.format(d=bad.folder)}\n"
    assert list_tree(bad.folder) == before


def changed(arguments: tuple[str, ...], old: str, new: str) -> tuple[str, ...]:
    assert old in arguments
    return tuple(new if argument == old else argument for argument in arguments)


DATA = [
    (
        changed(CALIBRATE, "{d}/train.jsonl", "{d}/trian.jsonl"),
        "data file '{d}/trian.jsonl' does not exist: did you mean 'train.jsonl'? "
        "known: columns.jsonl, empty.jsonl, labels.jsonl, train.jsonl, validation.jsonl",
    ),
    (
        changed(CALIBRATE, "{d}/train.jsonl", "{d}/empty.jsonl"),
        "data '{d}/empty.jsonl' has no rows: expected at least one",
    ),
    (
        changed(CALIBRATE, "{d}/train.jsonl", "{d}/columns.jsonl"),
        "{d}/columns.jsonl has no column 'text': text-classification needs text, the rows have sentence, label; "
        "use --columns text=...",
    ),
    (
        changed(RUN, "{d}/validation.jsonl", "{d}/labels.jsonl"),
        "{d}/labels.jsonl, row 2: label 'animul' is not one of the checkpoint's 3: did you mean 'animal'?",
    ),
    (
        (*CALIBRATE, "--columns", "text=txt"),
        "column 'txt' for 'text' is not in {d}/train.jsonl: did you mean 'text'? known: label, text; "
        "use --columns text=...",
    ),
    (
        (*CALIBRATE, "--columns", "txt=text"),
        "--columns names 'txt', which text-classification does not read: did you mean 'text'? "
        "known: label, text, text_pair",
    ),
    (
        (*CALIBRATE, "--max-length", "65"),
        "max length 65 is more than the 64 positions of the checkpoint: use --max-length 64",
    ),
]
CHECKPOINTS = [
    (
        changed(CALIBRATE, "{d}/float", "{d}/folder"),
        "{d}/folder is no checkpoint: it has no config.json, and nothing else of pytorch-quantization (config.json of "
        "qdqbert, or weights with ranges of pytorch-quantization or ModelOpt (_amax)); huggingface (config.json and "
        "model.safetensors or pytorch_model.bin, whole or in shards); flax (config.json and flax_model.msgpack, whole "
        "or in shards); tensorflow (bert_config.json and the .index and .data of TensorFlow 1)",
    ),
    (
        changed(CALIBRATE, "{d}/float", "{d}/folat"),
        "no checkpoint folder {d}/folat: give the folder of a Hugging Face checkpoint; did you mean 'float'? "
        "known: calibrated, float, gpt, nan, uncalibrated",
    ),
    (
        changed(CALIBRATE, "{d}/float", "{d}/gpt"),
        "model family 'albrt' is not supported: did you mean 'albert'? known: albert, bert, convbert, distilbert, "
        "electra, roberta, squeezebert",
    ),
    (
        changed(CALIBRATE, "{d}/float", "{d}/calibrated"),
        "{d}/calibrated is quantized already: give the float checkpoint it was made from",
    ),
    (
        changed(RUN, "{d}/float", "{d}/calibrated"),
        "{d}/calibrated is quantized already: give the float checkpoint it was made from",
    ),
    (
        changed(CALIBRATE, "{d}/float", "{d}/nan"),
        "activations at 'bert.encoder.layer.1.attention.self.key_quantizer' are not finite in batch 1: look for NaN "
        "or infinite weights in this layer or before it, or for broken inputs in that batch",
    ),
    (
        changed(FINETUNE, "{d}/calibrated", "{d}/float"),
        "{d}/float is a float checkpoint: run qdq calibrate on it first",
    ),
    (
        ("export", "{d}/float", "--out", "{d}/new"),
        "{d}/float is a float checkpoint: run qdq calibrate on it first",
    ),
    (
        (*FINETUNE, "--teacher", "{d}/calibrated"),
        "--teacher {d}/calibrated is quantized: give the float checkpoint",
    ),
    (
        ("export", "{d}/uncalibrated", *TASK, "--out", "{d}/new"),
        "the model is not calibrated: 16 quantizers have no range "
        "(bert.encoder.layer.0.attention.self.query_quantizer, bert.encoder.layer.0.attention.self.key_quantizer, "
        "bert.encoder.layer.0.attention.self.value_quantizer, ...); run qdq calibrate first",
    ),
]
SETTINGS = [
    (
        (*CALIBRATE, "--recipe", "{d}/recipe.toml"),
        "recipe '{d}/recipe.toml': unknown key 'wieghts', did you mean 'weights'? "
        "known: name, rules, scale_type, sharing, weight_bits, weight_ranges, weights",
    ),
    (
        (*CALIBRATE, "--recipe", "tensort"),
        "recipe 'tensort' is neither shipped nor a file: did you mean 'tensorrt'? "
        "known: lean, linear, qdqbert, tensorrt",
    ),
    (
        (*CALIBRATE, "--set", "calibratoin.samples=8"),
        "--set 'calibratoin.samples=8': unknown stage 'calibratoin', did you mean 'calibration'? "
        "known: build, calibration, export, finetune, task, weights",
    ),
    (
        (*CALIBRATE, "--set", "calibration.sample=8"),
        "calibration settings: unknown key 'sample', did you mean 'samples'? "
        "known: depths, equalize, method, percentile, samples, search_rows, split_outliers",
    ),
    (
        (*CALIBRATE, "--method", "entropie"),
        "calibration method 'entropie' is unknown: did you mean 'entropy'? "
        "known: all, best, entropy, max, mse, percentile",
    ),
    (
        ("calibrate", "{d}/float", "--out", "{d}/new", "--method", "mse"),
        "{d}/float is a float checkpoint: add --data with the rows to calibrate on",
    ),
    (
        ("calibrate", "{d}/calibrated", "--out", "{d}/new", "--method", "mse"),
        "{d}/calibrated keeps no candidates to choose from: calibrate the float checkpoint with --method all, or with "
        "the method you want",
    ),
    (
        (*CALIBRATE, "--set", "finetune.max_steps=8"),
        "--set finetune...: this command has no stage 'finetune', known: calibration, task, weights",
    ),
    (
        (*CALIBRATE, "--set", "task.pooling=mean"),
        "--set task.pooling: text-classification has no settings of its own",
    ),
    (
        (*changed(CALIBRATE, "text-classification", "feature-extraction"), "--set", "task.pooling=max"),
        "task settings: pooling: Input should be 'none', 'cls' or 'mean' ('max' given)",
    ),
    (
        ("evaluate", "{d}/calibrated", "--data", "{d}/validation.jsonl", "--reference", "{d}/float"),
        "--reference {d}/float: text-classification is scored by the labels of its rows; leave it out",
    ),
    (
        (*RUN, "--set", "build.shapes=1-1"),
        "--shapes entry '1-1' is no shape; expected one to three BATCHxSEQUENCE entries such as 1x16,8x128,32x384",
    ),
    (
        ("export", "{d}/calibrated", "--out", "{d}/new", "--target", "rtx"),
        "the checkpoint has per-channel weights, target 'rtx' in fp16 needs per-tensor: calibrate again with "
        "qdq calibrate CHECKPOINT --target rtx --task ... --data ... --out ...",
    ),
    (
        ("export", "{d}/calibrated", "--out", "{d}/new", "--precision", "fp61"),
        "precision 'fp61' is not one of target 'onnxruntime': known: fp32",
    ),
    (
        ("benchmark", "{d}/calibrated", "--shapes", "1x8,1x65"),
        "{d}/calibrated takes 64 tokens, 65 asked for: use --shapes with shorter ones",
    ),
    (
        (*CALIBRATE[:2], *CALIBRATE[4:]),
        "a float checkpoint does not say its task: add --task text-classification",
    ),
    (
        changed(CALIBRATE, "text-classification", "text-clasification"),
        f"task 'text-clasification' is not known: did you mean 'text-classification'? known: {KNOWN}",
    ),
]
PLACES = [
    (
        changed(CALIBRATE, "{d}/new", "{d}/train.jsonl/new"),
        "cannot write {d}/train.jsonl/new: File exists ({d}/train.jsonl); choose another --out",
    ),
    (
        changed(CALIBRATE, "{d}/new", "{d}/train.jsonl"),
        "cannot write the folder {d}/train.jsonl: a file of that name exists; choose another --out",
    ),
    (
        ("export", "{d}/calibrated", "--out", "/proc/new"),
        "cannot write /proc/new: No such file or directory (/proc); choose another --out",
    ),
    (
        (*changed(FINETUNE, "{d}/new", "/proc/deep/new"), "--set", "finetune.max_steps=1"),
        "cannot write /proc/deep/new: No such file or directory (/proc/deep); choose another --out",
    ),
    (
        ("build", "{d}/calibrated", "--out", "{d}/new"),
        "no ONNX graph at {d}/calibrated: give an ONNX file, or a folder that qdq export wrote",
    ),
    (
        ("lint", "a" * 300),
        f"{'a' * 300}: File name too long; give another path, or make it usable",
    ),
    (
        ("lint", "\x1b[2J.onnx"),
        "\\x1b[2J.onnx is no ONNX file; give the model.onnx of an exported folder",
    ),
    (
        ("audit", "{d}/model.engine"),
        "no engine at {d}/model.engine: give an engine that qdq build wrote",
    ),
    (
        ("evaluate", "{d}/model.engine", "--data", "{d}/validation.jsonl"),
        "no engine at {d}/model.engine: give an engine that qdq build wrote",
    ),
]
USAGE = [
    (("calibrate", "{d}/float"), "Missing option '--out' (see qdq calibrate --help)"),
    (("calibrat", "{d}/float"), "No such command 'calibrat'. Did you mean 'calibrate'? (see qdq --help)"),
    (
        (*CALIBRATE, "--batch-size", "0"),
        "Invalid value for '--batch-size': Input should be greater than or equal to 1 (see qdq calibrate --help)",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [*DATA, *CHECKPOINTS, *SETTINGS, *PLACES, *USAGE],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_mistake_is_named_in_one_line(bad: Workspace, arguments: tuple[str, ...], message: str) -> None:
    expect(bad, arguments, message)


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_mistake_prints_no_json(bad: Workspace, json_too: tuple[str, ...]) -> None:
    done = call(*spell((*changed(CALIBRATE, "{d}/train.jsonl", "nothing.jsonl"), *json_too), bad.folder))
    assert (done.code, done.out) == (2, "")
