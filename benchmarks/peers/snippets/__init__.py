"""What a user writes for each quantizer, from a checkpoint and rows to a quantized artefact; run by the contest."""
