"""Artefacts become numbers people can trust: workloads, paired timing, accuracy, the report, the whole journey."""
