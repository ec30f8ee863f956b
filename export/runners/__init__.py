"""Runners: anything that can infer behind one protocol (``base``), one engine a file; ``load`` picks by artefact."""
