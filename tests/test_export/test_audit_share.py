"""The share of planned products that is INT8, of audits of engines and of runtimes, and what falls short of one."""

from dataclasses import replace

import pytest

from export.audit.engine_audit import AuditRow, EngineAudit, unavailable_audit
from export.audit.runtime_audit import RuntimeAudit, RuntimeRow, count_rows
from export.audit.share import explain_shortfall, require_share, share_planned
from qat.errors import ExportError


def engine(*rows: tuple[bool, str, int]) -> EngineAudit:
    """An audit whose rows are (planned, reason, nodes)."""
    made = tuple(
        AuditRow(
            name=f"kernel {index}", planned=planned, kind="gemm", dtype="", reason=reason,
            nodes=tuple(f"{index}.{node}" for node in range(nodes)),
        )
        for index, (planned, reason, nodes) in enumerate(rows)
    )  # fmt: skip
    return replace(unavailable_audit(""), status="complete", reason="", rows=made)


def runtime(*rows: tuple[bool, str]) -> RuntimeAudit:
    """An audit whose rows are (planned, reason)."""
    made = tuple(
        RuntimeRow(name=f"product {index}", planned=planned, operation="MatMul", reason=reason)
        for index, (planned, reason) in enumerate(rows)
    )
    return RuntimeAudit(**count_rows(made), operations={}, version="", rows=made)


LOST = engine((True, "", 3), (True, "lost", 1), (False, "not planned", 5))


def test_a_merged_kernel_counts_for_each_of_its_products() -> None:
    assert share_planned(LOST) == 0.75


def test_a_runtime_counts_its_planned_products() -> None:
    assert share_planned(runtime((True, ""), (True, "lost"), (False, "not planned"))) == 0.5


@pytest.mark.parametrize("share", [0.0, 0.5, 0.75])
def test_a_share_that_is_reached_says_nothing(share: float) -> None:
    assert explain_shortfall(LOST, share) == ""


def test_a_shortfall_names_the_first_loss_and_why() -> None:
    assert explain_shortfall(LOST, 0.76) == (
        "0.75 of the planned products run in INT8, below --fail-under 0.76: 1 do not, first 'kernel 1' (lost)"
    )


def test_what_is_not_known_never_passes() -> None:
    assert explain_shortfall(unavailable_audit("no layers"), 0) == (
        "audit unavailable: no layers; --fail-under 0 needs one"
    )


@pytest.mark.parametrize("found", [engine((False, "not planned", 2)), runtime((False, "not planned"))])
def test_a_float_graph_never_passes(found: EngineAudit | RuntimeAudit) -> None:
    assert explain_shortfall(found, 0) == (
        "no product is planned as INT8, so --fail-under 0 is not met: audit a quantized graph"
    )


@pytest.mark.parametrize("share", [-0.1, 1.5, 95, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ExportError) as caught:
        require_share(share)

    assert str(caught.value) == (
        f"--fail-under {share:g} is no share: give a number from 0 to 1, 1 for every planned product"
    )


@pytest.mark.parametrize("share", [None, 0, 1])
def test_a_share_passes(share: float | None) -> None:
    require_share(share)
