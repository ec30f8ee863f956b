"""The benchmark of an export: a random BERT is exported, and its figures are those of the files it left."""

from benchmarks.export import make_bert, measure_export
from qat.quantizer import quantizers_without_range


def test_a_small_bert_is_exported_and_measured() -> None:
    model = make_bert(layers=1, hidden=64)
    assert quantizers_without_range(model) == []
    cost = measure_export(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert cost.weights_mb == parameters * 4 / 1e6
    assert cost.seconds > 0
    assert 0.25 < cost.file_ratio_int8_embeddings < 0.35 < cost.file_ratio < 0.55
