"""Real batches become ranges.

In the order of the flow: ``settings``, ``histogram``, ``observers`` (what passes through the quantizers), ``ranges``
(one method a file), ``candidates``, ``calibrate``, ``stage``, ``commands``.
"""
