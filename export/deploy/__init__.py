"""What a Triton Inference Server serves: an artefact as its model repository, and that repository checked."""
