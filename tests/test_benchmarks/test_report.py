"""The report on disk: every fact in JSON, a self-contained page, nothing invented, and nothing from data runs."""

import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.evidence import describe_ranges
from benchmarks.latency import LatencyRow
from benchmarks.report import make_plain, render_page, write_report
from benchmarks.report_sections import build_latency
from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from qat.errors import OutputError
from qat.huggingface import wrap
from tests.calibrated import tiny_batches
from tests.tiny import tiny_albert, tiny_bert

EVIL = "\"><script>alert('1')</script><img src=x onerror=alert(2)>{{ 7 * 7 }}$\\frac$"
VOID = {"meta", "img", "br", "use", "rect", "path"}


class Page(HTMLParser):
    """The tags, the attributes and the visible text of a page; it fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html.replace("<wbr>", ""))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.open += [] if tag in VOID - {"path", "use", "rect"} else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u2060", "").replace("\u00a0", " ").split())


SENSITIVITY: dict[str, Any] = {
    "rows": 128,
    "metric_name": "accuracy",
    "float_metric": 0.8,
    "quantized_metric": 0.79,
    "quantized_error": 4e-4,
    "groups": [
        {"group": "layer.0.ffn", "harm": 3e-4, "metric": 0.8},
        {"group": "layer.1.ffn", "harm": -1e-5, "metric": 0.78},
    ],
}


def _report(label: str = "onnxruntime") -> dict[str, Any]:
    latency = [
        LatencyRow(label, precision, batch, 128, p50, p50 * 1.1, p50 * 1.3, batch * 1000 / p50, (p50, p50 * 1.3) * 2)
        for batch in (1, 8)
        for precision, p50 in (("fp32", 4.0 * batch), ("int8", 2.5 * batch))
    ]
    return {
        "checkpoint": "runs/bert",
        "family": "bert",
        "task": "text-classification",
        "recipe": "tensorrt",
        "target": "onnxruntime",
        "granularity": "per_channel",
        "precision": "fp32",
        "accuracy": {
            "metric": "accuracy",
            "n": 1600,
            "fp32": 0.8,
            "ptq": 0.78,
            "qat": None,
            "onnx": 0.796,
            "to_fp32": {"onnx": {"points": -0.4, "error": 0.25}},
        },
        "latency": latency,
        "engine": {
            "target": "rtx",
            "hardware": ["sm_89"],
            "kernels": 49,
            "fp16_kernels": 55,
            "activation_mb": np.float32(9.5),
            "int8_gemms": np.int64(36),
            "float_gemms": 0,
            "int8_mac_share": 0.987,
            "audit": "layer table",
            "builder": "rtx 1.7",
            "rows": [{"name": "layer.0", "precision": "INT8", "planned": True}, {"name": "x", "reason": "planned"}],
        },
        "size_mb": {"fp32": 90.0, "int8": 30.0},
        "ranges": [
            {"name": f"layer.{depth}.in", "role": "input", "depth": depth, "amax": 4.0 + depth} for depth in range(3)
        ],
        "coverage": [
            *({"name": f"layer.{i}.query", "kind": "weight", "quantized": True, "reason": "rule 1"} for i in range(3)),
            *(
                {"name": f"layer.{i}.norm", "kind": "LayerNorm", "quantized": False, "reason": "outside"}
                for i in (0, 1)
            ),
        ],
        "settings": {"calibration": {"method": "best"}, "finetune": {"max_steps": 120}},
        "sensitivity": deepcopy(SENSITIVITY),
        "split_neurons": [
            {"name": "layer.0", "before": 2.0, "after": 0.5},
            {"name": "layer.1", "before": 7.914, "after": 0.428},
        ],
        "environment": {"date": "2026-01-02T03:04:05+00:00", "cpu": {"model": "Xeon", "flags": ["avx2", "amx_int8"]}},
        "timings_s": {"calibrate": 21.34, "finetune": None},
    }


def _poison(value: object) -> object:
    """The same report with every text in it, and every free name, replaced by an attack."""
    if isinstance(value, dict):
        return {name: _poison(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_poison(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_both_files_are_written_and_the_folders_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    page = write_report(tmp_path, _report())

    assert page == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "report.html", "report.json"]
    facts = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert facts["latency"][0]["samples_ms"] == [4.0, 5.2, 4.0, 5.2]
    assert facts["engine"]["int8_gemms"] == 36


def test_the_verdict_comes_first_and_in_full() -> None:
    text = Page(render_page(make_plain(_report()))).text

    assert text.startswith(
        "bert: INT8 report runs/bert · 2026-01-02 "
        "99.5 % of the FP32 accuracy kept; 1.60× the speed of onnxruntime fp32. "
        "98.7 % of the encoder's multiply-accumulates run in INT8. "
        "Accuracy kept 99.5 % −0.40 ± 0.25 points of accuracy against FP32 (onnx, per-channel weights) "
        "INT8 share 98.7 % of the encoder's multiply-accumulates Size 3.00× smaller 90.0 MB to 30.0 MB "
        "Speed 1.60× onnxruntime int8 against onnxruntime fp32 at 1x128, 8x128; the engine was not timed Made with"
    )


def test_slower_is_in_the_headline_and_in_the_table() -> None:
    report = make_plain(_report())
    for row in report["latency"]:
        row["samples_ms"] = [9.0 if row["precision"] == "int8" else 6.0] * 4

    text = Page(render_page(report)).text
    assert "INT8 is slower here: 0.67× the speed of onnxruntime fp32." in text
    assert text.count("0.67× slower ± 0.00") == 2


def test_an_engine_that_was_timed_is_not_called_untimed() -> None:
    report = make_plain(_report(label="rtx"))

    assert "the engine was not timed" not in Page(render_page(report)).text


def test_an_outlier_neither_hides_the_bars_nor_leaves_the_picture() -> None:
    rows = make_plain(_report())["latency"][:2]
    rows[0]["p99_ms"] = 4000.0
    (group,) = build_latency(rows)

    assert [round(row["bar"], 2) for row in group["rows"]] == [62.5, 39.06]
    assert [round(row["bar"] + row["tail"], 2) for row in group["rows"]] == [100.0, 50.78]


def test_the_most_harmful_groups_are_shown_and_the_others_counted() -> None:
    report = make_plain(_report())
    report["sensitivity"]["groups"] = [{"group": f"g{n}", "harm": 1e-4 / (n + 1), "metric": 0.5} for n in range(23)]
    text = Page(render_page(report)).text

    assert "g0 25.0 % 0.500 g1 12.5 % 0.500" in text
    assert "g19 1.2 % 0.500 What an engine runs in INT8 together" in text
    assert "3 groups that harm less are not shown." in text


def test_sections_show_their_facts() -> None:
    text = Page(render_page(make_plain(_report()))).text

    for shown in (
        "FP32 80.00 % ± 1.00 % – 100.0 %",
        "calibrated (PTQ) 78.00 % ± 1.04 % −2.00 97.5 %",
        "fine-tuned (QAT) not measured",
        "exported (ONNX) 79.60 % ± 1.01 % −0.40 ± 0.25 99.5 %",
        "To FP32: in points; its error is paired",
        "1x128 4 samples each",
        "onnxruntime int8 2.50 2.75 3.25 1.60× ± 0.00 400",
        "Settings calibration method best finetune max steps 120",
        "layer.0.ffn 75.0 % 0.800 layer.1.ffn −2.5 % 0.780 What an engine",
        "In float accuracy is 0.800, with every group in INT8 0.790.",
        "feed-forward blocks whose outlier neurons are split: 2; the largest weight falls from 7.91 to 0.428",
        "3 of 5 places are quantized.",
        "layer.*.norm 2 LayerNorm outside",
        "Kernels 49 55",
        "GEMMs planned, in INT8 36",
        "Target rtx, hardware sm_89. Audit: layer table.",
        "layer.2.in 2 6.00 – – – – –",
        "cpu flags avx2, amx_int8",
        "calibrate 21.3 s finetune not measured",
    ):
        assert shown in text


def test_the_page_needs_nothing_but_itself() -> None:
    page = Page(render_page(make_plain(_report())))
    links = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "srcset", "action"}]

    assert {"script", "link", "img", "iframe", "object"} & set(page.tags) == set()
    assert [link for link in links if not str(link).startswith("#")] == []
    assert "prefers-color-scheme: dark" in render_page({})
    assert "@media print" in render_page({})
    assert "@import" not in render_page({})


def test_ids_are_unique_and_every_reference_finds_its_own() -> None:
    report = make_plain(_report())
    report["ranges"] += [{**row, "role": "residual"} for row in report["ranges"]]
    html = render_page(report)
    names = re.findall(r'\bid="([^"]+)"', html)

    assert len(names) == len(set(names)) > 0
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)) <= {("", name) for name in names} | {
        (name, "") for name in names
    }


def test_text_from_data_is_shown_and_never_run() -> None:
    report = _poison(make_plain(_report()))
    assert isinstance(report, dict)
    report["environment"][EVIL] = EVIL
    report["timings_s"][EVIL] = EVIL
    report[EVIL] = {EVIL: EVIL}
    report["engine"]["rows"].append({EVIL: EVIL})
    report["accuracy"]["agreement"] = {EVIL: EVIL}
    page = Page(render_page(report))

    assert {"script", "img"} & set(page.tags) == set()
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    assert page.text.count("<script>alert('1')</script>") > 25
    assert "{{ 7 * 7 }}" in page.text


def test_names_break_at_their_dots_and_are_escaped() -> None:
    report = make_plain(_report())
    report["sensitivity"]["groups"][0]["group"] = "layer.0.<b>"

    assert '<td class="name">layer.<wbr>0.<wbr>&lt;b&gt;</td>' in render_page(report)


def test_a_label_cannot_break_out_of_an_attribute() -> None:
    report = make_plain(_report())
    for row in report["ranges"]:
        row["role"] = '" onmouseover="alert(1)'
    page = Page(render_page(report))

    assert ("aria-label", 'amax of " onmouseover="alert(1) by depth') in page.attributes


@pytest.mark.parametrize("empty", [{}, dict.fromkeys(_report())])
def test_what_is_missing_is_called_not_measured(empty: dict[str, Any]) -> None:
    text = Page(render_page(empty)).text

    assert "Accuracy against FP32 not measured; speed against float not measured." in text
    for title in ("Accuracy", "Latency", "INT8 coverage", "Engine plan", "Ranges", "Environment", "Time taken"):
        assert f"{title} Not measured." in text
    assert not re.search(r"\d%|\d ms|None|nan", text)


@pytest.mark.parametrize("name", sorted(_report()))
def test_any_one_section_may_be_missing(name: str, tmp_path: Path) -> None:
    report = {key: value for key, value in _report().items() if key != name}

    assert "None" not in Page(write_report(tmp_path, report).read_text(encoding="utf-8")).text


def test_an_unavailable_audit_is_no_pass_and_its_zeros_are_no_facts() -> None:
    report = make_plain(_report())
    report["engine"] = {
        "target": "rtx",
        "audit": "audit unavailable: no layer table",
        "kernels": 0,
        "float_gemms": 0,
        "int8_mac_share": 1.0,
    }
    text = Page(render_page(report)).text

    assert "INT8 share not measured" in text
    assert "Kernels not measured not measured" in text
    assert "GEMMs planned, not in INT8 not measured" in text
    assert "Nothing here is proven to run in INT8: the audit read no layer table." in text


def test_numbers_that_are_not_finite_are_named_not_hidden(tmp_path: Path) -> None:
    report = _report()
    report["accuracy"]["qat"] = float("nan")
    report["ranges"][1]["amax"] = float("inf")
    page = write_report(tmp_path, report).read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

    assert facts["not_finite"] == ["accuracy.qat", "ranges[1].amax"]
    assert "not finite accuracy.qat, ranges[1].amax" in Page(page).text


def test_sections_of_other_names_are_listed() -> None:
    text = Page(render_page({"pruning": {"layer.3": 0.5, "kept_heads": ["a", "b"]}})).text

    assert "Further facts pruning layer.3 0.5 pruning kept heads a, b" in text


def test_a_range_that_is_the_same_at_every_depth_is_told_once() -> None:
    report = make_plain(_report())
    report["ranges"] += [{"name": f"p{d}", "role": "probs", "depth": d, "amax": 1.0} for d in range(3)]
    page = Page(render_page(report))

    assert "One range at every depth amax probs 1.00 Largest amax by depth" in page.text
    assert "Depth 0 1 2 input 4.00 5.00 6.00 probs 1.00 1.00 1.00 Every range (6)" in page.text
    assert ("aria-label", "amax of probs by depth") not in page.attributes


def test_ranges_of_channels_and_without_depth_are_listed() -> None:
    report = {"ranges": [{"name": "w", "role": "weight", "depth": None, "amax": [0.5, 2.0]}, {"name": "off"}]}
    text = Page(render_page(report)).text

    assert "w – 2.00" in text


def _with_evidence(model: PreTrainedModel) -> list[dict[str, Any]]:
    wrap(model)
    found = calibrate(model, tiny_batches(), settings=CalibrationSettings(method="percentile", percentile=98.0))
    return describe_ranges(found.ranges, found.evidence)


def test_evidence_is_drawn_and_told_by_depth() -> None:
    rows = _with_evidence(tiny_albert())
    page = Page(render_page(make_plain({"ranges": rows})))
    roles = list(dict.fromkeys(row["role"] for row in rows if row["source"] == "calibrated"))
    drawn = [value for name, value in page.attributes if name == "aria-label" and "magnitudes" in str(value)]
    queries = {row["depth"]: row for row in rows if row["role"] == "attention.query"}
    worst = min(queries, key=lambda depth: queries[depth]["sqnr_db"])

    assert drawn == [f"magnitudes of {role} by depth, with the range" for role in roles]
    assert sorted(queries) == [0, 1, 2]
    assert f"{queries[worst]['sqnr_db']:.1f} dB at {worst} " in page.text
    row = queries[1]
    assert f"{100 * row['saturated']:.3f} % {row['sqnr_db']:.1f} {row['dead']} {row['outliers']}" in page.text
    assert "Weights and fixed ranges" in page.text


def test_tensors_without_evidence_say_nothing_of_it() -> None:
    text = Page(render_page(make_plain(_report()))).text

    assert "Most clipped" not in text
    assert "Weights and fixed ranges" not in text


def test_a_tensor_of_zeros_has_no_ridge() -> None:
    model = tiny_bert()
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.0.attention.self.value.weight").zero_()
        model.get_parameter("bert.encoder.layer.0.attention.self.value.bias").zero_()
    rows = _with_evidence(model)
    (dead,) = [row for row in rows if row["name"].endswith("layer.0.attention.self.value_quantizer")]
    text = Page(render_page(make_plain({"ranges": rows}))).text

    assert (dead["dead"], dead["zeros"], dead["sqnr_db"]) == (32, 1.0, None)
    assert "32 of 32 at 0" in text


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")

    with pytest.raises(OutputError, match="choose another --out"):
        write_report(tmp_path / "taken", _report())
