"""Real batches become ranges.

In the order of the flow: ``observers`` (what a batch adds to a range), ``histogram``, ``calibrate``, ``commands``.
"""
