"""Random configurations, from wrapping to an engine: whatever a family allows exports, agrees and builds.

A family joins with a strategy of its configurations in ``STRATEGIES``.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, ConvBertConfig, PreTrainedConfig, SqueezeBertConfig

from calibration.calibrate import calibrate
from export.engine_build import build_engine
from export.engine_spec import EngineSpec, parse_shapes
from export.exported import Lowering, lower_graph, trace_model
from export.targets import find_target
from qat.huggingface import wrap
from qat.recipe import Recipe, WeightGranularity
from tests.test_export.tiny_models import count_apart, make_batch, run_graph, run_torch, to_tensors
from tests.tiny import MAX_LENGTH, spread_weights, tiny_tokenizer
from tests.tolerances import FLIPPED_ROWS

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")

SHAPES = ((1, 1), (4, 9), (2, 17))


@dataclass(frozen=True)
class Sample:
    """A configuration and how its model is quantized."""

    config: PreTrainedConfig
    recipe: str
    weights: WeightGranularity


def divisors(number: int) -> st.SearchStrategy[int]:
    """What channels can be cut into evenly."""
    return st.sampled_from([n for n in range(1, number + 1) if number % n == 0])


@st.composite
def squeezebert(draw: st.DrawFn) -> PreTrainedConfig:
    """SqueezeBERT: any number of groups for each convolution, any activation function with a common name."""
    heads = draw(st.sampled_from([1, 2, 3]))
    hidden, inner = heads * draw(st.sampled_from([8, 16, 32])), draw(st.sampled_from([48, 64, 96]))
    both = divisors(gcd(hidden, inner))
    return SqueezeBertConfig(
        embedding_size=hidden,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=inner,
        hidden_act=draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new", "quick_gelu"])),
        q_groups=draw(divisors(hidden)),
        k_groups=draw(divisors(hidden)),
        v_groups=draw(divisors(hidden)),
        post_attention_groups=draw(divisors(hidden)),
        intermediate_groups=draw(both),
        output_groups=draw(both),
    )


@st.composite
def convbert(draw: st.DrawFn) -> PreTrainedConfig:
    """ConvBERT: heads shared out in any ratio, dense or grouped feed-forward, any odd kernel, projected embeddings."""
    heads, ratio = draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([1, 2, 4]))
    hidden = heads * max(heads // ratio, 1) * draw(st.sampled_from([8, 16]))
    inner = draw(st.sampled_from([48, 64, 96]))
    return ConvBertConfig(
        embedding_size=draw(st.sampled_from([16, hidden])),
        hidden_size=hidden,
        num_attention_heads=heads,
        head_ratio=ratio,
        conv_kernel_size=draw(st.sampled_from([1, 3, 5, 9])),
        num_groups=draw(st.sampled_from([1, 2, 4])),
        intermediate_size=inner,
        hidden_act=draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new", "quick_gelu"])),
    )


STRATEGIES: Mapping[str, st.SearchStrategy[PreTrainedConfig]] = {
    "convbert": convbert(),
    "squeezebert": squeezebert(),
}
"""The configurations of each family; sizes of vocabulary, positions and depth are set for all alike."""


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """A configuration of some family, a shipped recipe, a granularity."""
    config = draw(STRATEGIES[draw(st.sampled_from(sorted(STRATEGIES)))])
    config.vocab_size, config.max_position_embeddings = len(tiny_tokenizer()), MAX_LENGTH
    config.num_hidden_layers, config.num_labels, config.pad_token_id = 1, 3, 0
    recipe = draw(st.sampled_from(["tensorrt", "linear", "qdqbert"]))
    return Sample(config, recipe, draw(st.sampled_from(["per_tensor", "per_channel"])))


@pytest.mark.long
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(samples())
def test_random_models(sample: Sample) -> None:
    """Wraps, calibrates, exports, runs and builds one sample."""
    model = AutoModelForSequenceClassification.from_config(sample.config)
    spread_weights(model, seed=1)
    model.train(False)
    wrap(model, Recipe.load(sample.recipe).model_copy(update={"weights": sample.weights}))
    calibrate(model, [to_tensors(make_batch(4, 12, seed=seed)) for seed in range(2)])
    traced = trace_model(model)
    lowered = lower_graph(traced, Lowering(find_target("onnxruntime"), "fp32"))
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert count_apart(run_graph(lowered, batch), run_torch(model, batch)) <= FLIPPED_ROWS.value
    target = "rtx" if sample.weights == "per_tensor" else "tensorrt"
    engine = lower_graph(traced, Lowering(find_target(target), "fp16"))
    onnx.checker.check_model(ir.to_proto(engine), full_check=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(engine, path)
        spec = EngineSpec(builder="rtx", shapes=parse_shapes("1x1,2x16,4x64"), hardware=("sm_86", "sm_89", "sm_120"))
        assert build_engine(path, spec).plan
