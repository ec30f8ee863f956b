"""Makes ``fixtures/``: tiny checkpoints in formats of old, by the libraries that wrote them, with what these computed.

Run by hand, in an environment of its own, since none of these can be installed beside transformers 5:

    pip install "transformers==4.49.0" "flax==0.10.7" "jax[cpu]==0.6.2" "torch==2.13.0" "tensorflow-cpu==2.19.1"
    python tests/test_qat/test_checkpoints/make_fixtures.py

Each folder holds a checkpoint, ``answers.npz`` (inputs, and every output of transformers 4 for them in FP32) and
``expected.json`` (the start of the SHA-256 of every parameter as transformers 4 converts it to PyTorch, in FP32).
"""

import hashlib
import json
import shutil
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import torch
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict
from torch import Tensor, nn

HERE = Path(__file__).parent / "fixtures"
SIZES = {
    "vocab_size": 16,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
}
CONFIGS: dict[str, Callable[..., Any]] = {
    "Albert": lambda **more: transformers.AlbertConfig(
        **{**SIZES, "embedding_size": 4, "num_hidden_layers": 3, "hidden_act": "gelu_new", **more}
    ),
    "Bert": lambda **more: transformers.BertConfig(**{**SIZES, "num_hidden_layers": 2, **more}),
    "ConvBert": lambda **more: transformers.ConvBertConfig(
        **{**SIZES, "embedding_size": 4, "num_hidden_layers": 2, "head_ratio": 1, "conv_kernel_size": 3, **more}
    ),
}
chance = np.random.default_rng(0)


def random_values(shape: tuple[int, ...]) -> np.ndarray:
    return (0.3 * chance.standard_normal(shape)).astype(np.float32)


def inputs_for(head: str) -> dict[str, np.ndarray]:
    mask = (np.arange(7) < np.array([[7], [4]])).astype(np.int64)
    tokens = chance.integers(1, 16, (2, 7)) * mask
    inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": (np.arange(7) > 3) * mask}
    return {name: np.stack([value, value[::-1]], 1) for name, value in inputs.items()} if "Choice" in head else inputs


def fresh(name: str) -> Path:
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def record(folder: Path, inputs: Mapping[str, Any], outputs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    tensors = {name: value for name, value in outputs.items() if hasattr(value, "shape")}
    arrays = {f"out.{name}": np.asarray(value, np.float32) for name, value in tensors.items()}
    np.savez_compressed(folder / "answers.npz", **{f"in.{name}": value for name, value in inputs.items()}, **arrays)
    hashes = {
        name: hashlib.sha256(value.detach().float().contiguous().numpy().tobytes()).hexdigest()[:16]
        for name, value in sorted(weights.items())
        if not name.endswith("position_ids")
    }
    (folder / "expected.json").write_text(json.dumps(hashes, indent=0) + "\n")


def run_torch(model: Any, folder: Path, head: str = "") -> None:
    inputs = inputs_for(head)
    with torch.no_grad():
        outputs = model.eval()(**{name: torch.from_numpy(value.copy()) for name, value in inputs.items()})
    record(folder, inputs, outputs, {n: v for n, v in model.state_dict().items() if "_amax" not in n})


def spread(model: nn.Module) -> Any:
    for parameter in model.parameters():
        parameter.data = torch.from_numpy(random_values(tuple(parameter.shape)))
    return model


def make_flax(name: str, family: str, head: str, *, dtype: str = "float32", shards: str = "", **more: Any) -> None:
    import jax
    import jax.numpy as jnp
    import jaxlib

    for kind in (jaxlib._jax.ArrayImpl, jax.core.Tracer):  # which these models still call
        kind.split = lambda self, n, axis=0: jnp.split(self, n, axis=axis)
    config = CONFIGS[family](**more)
    model = getattr(transformers, f"Flax{family}{head}")(config)
    leaves = {path: jnp.asarray(random_values(leaf.shape), dtype) for path, leaf in flatten_dict(model.params).items()}
    model.params = unflatten_dict(leaves)
    folder = fresh(f"flax-{name}")
    model.save_pretrained(folder)
    twin = getattr(transformers, f"{family}{head}").from_pretrained(folder, from_flax=True)
    if shards:
        (folder / "flax_model.msgpack").unlink()
        model.save_pretrained(folder, max_shard_size=shards)
    model.params = unflatten_dict({path: leaf.astype("float32") for path, leaf in leaves.items()})
    inputs = inputs_for(head)
    record(folder, inputs, dict(model(**inputs)), twin.float().state_dict())


def make_tf1(name: str, family: str, head: str, names: Callable[[str], str], **more: Any) -> None:
    config = CONFIGS[family](**more)
    model = spread(getattr(transformers, f"{family}{head}")(config))
    graph = tf.Graph()
    folder = fresh(f"tf1-{name}")
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        for key, value in {**dict(model.named_parameters())}.items():
            array = value.detach().numpy()
            if key.endswith(("dense.weight", "pooler.weight", "query.weight", "key.weight", "value.weight")) or any(
                part in key for part in ("mapping_in.w", "ffn.w", "ffn_output.w", "_project.w", "layer.weight")
            ):
                array = array.T if array.ndim == 2 else array
            if "key_conv_attn_layer" in key:
                array = {"depthwise.weight": lambda a: a.transpose(2, 0, 1), "pointwise.weight": lambda a: a.T}.get(
                    ".".join(key.split(".")[-2:]), lambda a: a[:, 0]
                )(array)
            variable = tf.compat.v1.get_variable(names(key), initializer=np.ascontiguousarray(array))
            for slot in ("adam_m", "adam_v") if "query" in key else ():
                tf.compat.v1.get_variable(f"{variable.op.name}/{slot}", initializer=np.zeros_like(array))
        tf.compat.v1.get_variable("global_step", initializer=np.int64(7))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(folder / "model.ckpt"), write_meta_graph=False)
    (folder / "checkpoint").unlink()
    load = sys.modules[type(model).__module__].__dict__[f"load_tf_weights_in_{family.lower()}"]
    twin = getattr(transformers, f"{family}{head}")(config)
    load(twin, config, str(folder / "model.ckpt"))
    twin.tie_weights()
    original = {k: v for k, v in config.to_dict().items() if k in {**SIZES, "embedding_size": 0, **_GOOGLE}}
    (folder / f"{family.lower()}_config.json").write_text(json.dumps(original, indent=1))
    run_torch(twin, folder, head)


_GOOGLE = dict.fromkeys(
    (
        *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "type_vocab_size"),
        *("num_hidden_layers", "num_hidden_groups", "inner_group_num", "conv_kernel_size", "head_ratio", "num_groups"),
    )
)


def bert_name(key: str) -> str:
    for old, new in (
        ("cls.predictions.bias", "cls/predictions/output_bias"),
        ("cls.seq_relationship.weight", "cls/seq_relationship/output_weights"),
        ("cls.seq_relationship.bias", "cls/seq_relationship/output_bias"),
        ("layer.", "layer_"),
        ("_embeddings.weight", "_embeddings"),
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
        (".weight", ".kernel"),
    ):
        key = key.replace(old, new)
    return key.replace(".", "/")


def albert_name(key: str) -> str:
    for old, new in (
        ("albert_layer_groups.", "transformer.group_"),
        ("albert_layers.", "inner_group_"),
        ("full_layer_layer_norm", "LayerNorm_1"),
        ("attention.LayerNorm", "LayerNorm"),
        ("attention.dense", "attention_1.output.dense"),
        ("attention.", "attention_1.self."),
        ("attention_1.self.output", "attention_1.output"),
        ("ffn_output", "ffn_1.intermediate.output.dense"),
        ("ffn.", "ffn_1.intermediate.dense."),
        ("pooler.", "pooler.dense."),
        ("predictions.bias", "cls.predictions.output_bias"),
        ("predictions.dense", "cls.predictions.transform.dense"),
        ("predictions.LayerNorm", "cls.predictions.transform.LayerNorm"),
        ("sop_classifier.classifier.weight", "cls.seq_relationship.output_weights"),
        ("sop_classifier.classifier.bias", "cls.seq_relationship.output_bias"),
        ("albert.", "bert."),
        ("LayerNorm_1.weight", "LayerNorm_1.gamma"),
        ("LayerNorm_1.bias", "LayerNorm_1.beta"),
    ):
        key = key.replace(old, new) if not (old == "attention." and "attention_1" in key) else key
    return bert_name(key)


def convbert_name(key: str, dense: str = "dense") -> str:
    for old, new in (
        ("key_conv_attn_layer.depthwise.weight", "conv_attn_key.depthwise_kernel"),
        ("key_conv_attn_layer.pointwise.weight", "conv_attn_key.pointwise_kernel"),
        ("key_conv_attn_layer", "conv_attn_key"),
        ("conv_kernel_layer", "conv_attn_kernel"),
        ("conv_out_layer", "conv_attn_point"),
    ):
        key = key.replace(old, new)
    if "intermediate.dense" in key or (".output.dense" in key and "attention" not in key):
        key = key.replace(".dense.", f".{dense}.")
    return "electra/" + bert_name(key)


def make_torch(name: str, family: str, *, heads: dict[int, list[int]] | None = None, **more: Any) -> None:
    """A PyTorch checkpoint with what transformers 5 no longer builds."""
    model = spread(getattr(transformers, f"{family}ForSequenceClassification")(CONFIGS[family](**more)))
    if heads:
        model.prune_heads(heads)
    folder = fresh(f"torch-{name}")
    model.save_pretrained(folder)
    run_torch(model, folder)


class TensorQuantizer(nn.Module):
    """pytorch-quantization's, as far as a calibrated one computes: ``tensor_quant.py``, ``_tensor_quant``."""

    def __init__(self, axis: int | None = None) -> None:
        super().__init__()
        self.axis = axis

    def calibrate(self, x: Tensor) -> None:
        axes = [axis for axis in range(x.ndim) if axis != self.axis]
        largest = x.abs().amax() if self.axis is None else x.abs().amax(axes, keepdim=True)
        self.register_buffer("_amax", 0.8 * largest)  # clipped, and so not the weight's own

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "_amax"):
            self.calibrate(x)
        scale = 127.0 / self._amax
        return torch.clamp((x * scale).round(), -128.0, 127.0) / scale


def install_quantization(axis: int | None) -> None:
    """A stand-in for pytorch-quantization, which no registry has: the modules QDQBERT is made of."""

    class QuantLinear(nn.Linear):
        default_quant_desc_input = None

        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self._input_quantizer = TensorQuantizer()
            self._weight_quantizer = TensorQuantizer(axis)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self._input_quantizer(x), self._weight_quantizer(self.weight), self.bias)

    package = types.ModuleType("pytorch_quantization")
    layers = types.ModuleType("pytorch_quantization.nn")
    layers.QuantLinear = QuantLinear
    package.nn = layers
    quantizers = types.ModuleType("pytorch_quantization.nn.modules.tensor_quantizer")
    quantizers.TensorQuantizer = TensorQuantizer
    sys.modules.update(
        {
            "pytorch_quantization": package,
            "pytorch_quantization.nn": layers,
            "pytorch_quantization.nn.modules": types.ModuleType("pytorch_quantization.nn.modules"),
            "pytorch_quantization.nn.modules.tensor_quantizer": quantizers,
        }
    )
    for name in [name for name in sys.modules if "deprecated.qdqbert.modeling" in name]:
        del sys.modules[name]
    transformers.utils.import_utils._pytorch_quantization_available = True


def make_qdqbert(name: str, axis: int | None) -> None:
    install_quantization(axis)
    import importlib

    home = importlib.import_module("transformers.models.deprecated.qdqbert.modeling_qdqbert")
    home = importlib.reload(home)
    config = transformers.models.deprecated.qdqbert.QDQBertConfig(**SIZES, num_hidden_layers=2, num_labels=3)
    home.TensorQuantizer = lambda _=None: TensorQuantizer()
    model = spread(home.QDQBertForSequenceClassification(config)).eval()
    folder = fresh(f"qdqbert-{name}")
    tokens = torch.from_numpy(chance.integers(1, 16, (8, 7)))
    with torch.no_grad():
        model(tokens)
    model.save_pretrained(folder)
    run_torch(model, folder)


def main() -> None:
    heads = ("PreTraining", "MaskedLM", "SequenceClassification", "MultipleChoice", "TokenClassification")
    for head in (*heads, "QuestionAnswering"):
        make_flax("albert-" + "".join(each for each in head if each.isupper()).lower(), "Albert", f"For{head}")
    make_flax("bert-pt", "Bert", "ForPreTraining")
    make_flax("bert-nsp", "Bert", "ForNextSentencePrediction")
    make_flax("albert-untied", "Albert", "ForMaskedLM", tie_word_embeddings=False)
    make_flax("bert-untied", "Bert", "ForMaskedLM", tie_word_embeddings=False)
    make_flax("albert-shards", "Albert", "ForPreTraining", shards="1KB")
    make_flax("albert-bf16", "Albert", "ForSequenceClassification", dtype="bfloat16")
    make_flax("bert-fp16", "Bert", "ForSequenceClassification", dtype="float16")
    groups = {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}
    make_flax("albert-groups", "Albert", "ForSequenceClassification", **groups)
    make_tf1("bert", "Bert", "ForPreTraining", bert_name)
    make_tf1("albert", "Albert", "ForPreTraining", albert_name)
    make_tf1("albert-groups", "Albert", "ForPreTraining", albert_name, **groups)
    make_tf1("albert-hub", "Albert", "Model", lambda key: "module/" + albert_name(f"albert.{key}"))
    make_tf1("convbert", "ConvBert", "Model", convbert_name)
    make_tf1("convbert-groups", "ConvBert", "Model", lambda key: convbert_name(key, "g_dense"), num_groups=2)
    for kind in ("relative_key", "relative_key_query"):
        for family in ("Albert", "Bert"):
            make_torch(f"{family.lower()}-{kind.replace('_', '-')}", family, position_embedding_type=kind)
    make_torch("bert-pruned", "Bert", heads={0: [1]})
    make_torch("albert-pruned", "Albert", heads={1: [0], 2: [1]}, **groups)
    make_qdqbert("channels", 0)
    make_qdqbert("tensors", None)


if __name__ == "__main__":
    main()
