"""What continuous integration asks of an audit: the share of the planned products that really is INT8."""

from export.audit.engine_audit import AuditRow, EngineAudit
from export.audit.runtime_audit import RuntimeAudit, RuntimeRow
from qat.errors import ExportError


def share_planned(found: EngineAudit | RuntimeAudit) -> float | None:
    """The share, 0 to 1, of the planned products that run in INT8; ``None`` where nothing is known or planned.

    Products are those of the ONNX graph: a kernel that computes three counts three times.
    """
    planned = [row for row in found.rows if row.planned]
    products = sum(_count_products(row) for row in planned)
    return sum(_count_products(row) for row in planned if not row.reason) / products if products else None


def _count_products(row: AuditRow | RuntimeRow) -> int:
    return len(row.nodes) if isinstance(row, AuditRow) else 1


def require_share(share: float | None) -> None:
    """Passes for ``None`` and for a share from 0 to 1.

    Raises:
        ExportError: anything else.
    """
    if share is not None and not 0 <= share <= 1:
        raise ExportError(f"--fail-under {share:g} is no share: give a number from 0 to 1, 1 for every planned product")


def explain_shortfall(found: EngineAudit | RuntimeAudit, share: float) -> str:
    """Why the audit is below ``share``, in one line; empty where it is not. What is not known never passes."""
    if isinstance(found, EngineAudit) and found.status != "complete":
        return f"{found.reason}; --fail-under {share:g} needs one"
    reached = share_planned(found)
    if reached is None:
        return f"no product is planned as INT8, so --fail-under {share:g} is not met: audit a quantized graph"
    if reached >= share:
        return ""
    lost = [row for row in found.rows if row.planned and row.reason]
    return (
        f"{reached:.4g} of the planned products run in INT8, below --fail-under {share:g}: {len(lost)} do not, "
        f"first '{lost[0].name}' ({lost[0].reason})"
    )
