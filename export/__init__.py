"""A calibrated model becomes artefacts that run and can be compared.

In the order of the flow: ``onnx_export`` (the traced graph), ``passes`` (one change a file), ``targets`` (one lowering
a file), ``exported`` (the folder), ``lint``, ``engine_spec``, ``engine_build``, ``audit`` (what really runs in INT8),
``engine`` (build and audit), ``runners``, ``compare`` and ``layer_compare``, ``commands``.
"""
