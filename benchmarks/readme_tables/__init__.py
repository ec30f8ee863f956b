"""Results become text: the tables of both READMEs, and a page beside every result file.

To add a table: one function in the file it belongs to, registered under a name, and that name between markers in one of
them; ``python -m benchmarks.readme_tables`` does the rest.

registry            results on disk, and which function draws which table
markdown            rows as Markdown
accuracy_tables     what journeys and methods come to
qat_tables          what QAT recovers
calibration_tables  what calibration costs
engine_tables       what engines hold, how fast runtimes are, what a training step costs
peer_tables         other quantizers beside ours, row by row
peer_columns        and column by column
pages               the page beside a result file
blocks              tables between markers, in a text
"""

from benchmarks.readme_tables import (
    accuracy_tables,
    calibration_tables,
    engine_tables,
    peer_columns,
    peer_tables,
    qat_tables,
)

__all__ = ["accuracy_tables", "calibration_tables", "engine_tables", "peer_columns", "peer_tables", "qat_tables"]
