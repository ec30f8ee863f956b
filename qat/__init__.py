"""A checkpoint becomes a trainable fake-quantized model; the modules in the order the work flows.

spec            how one tensor is quantized
fake_quant      the operator that rounds to INT8 and back, and its scale; ``fused_cpu`` computes it in one pass
quantizer       a spec and a range, switched on or off
layers          a Linear on quantized input and weight
attention       transformers' eager attention on quantized q, k, v and probabilities
recipe          what to quantize, read from TOML; the shipped ones lie in ``recipes/``
families        the model families, one file each: their classes, and who reads which tensor
placement       a recipe's rules become the slots that get a quantizer
wrap            a float model is taken over in place, and given back
huggingface     the wrapped model in transformers: its configuration entry, saving and loading
structure       pruned heads and relative positions, built before weights are read
checkpoints     the formats checkpoints are kept in, one file each
checkpoint      a checkpoint is read in any of them, and written with all that belongs to it
data, batches   rows of a file, and padded batches of them
tasks           the task heads, one file each: columns, labels, metric
finetune        quantization-aware training, with the teacher of ``distill`` or without one
commands        the stage on the command line, with ``options``, ``settings`` and ``console``
artefacts       how every stage writes files: whole or not at all, with a manifest
errors          the mistakes a user can make, and how their messages are worded
"""
