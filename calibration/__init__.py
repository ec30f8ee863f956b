"""Real batches become ranges.

In the order of the flow: ``settings``, ``histogram``, ``observers`` (what passes through the quantizers), ``ranges``
(one method a file), ``candidates``, ``probe`` and ``replay`` and ``search`` (the method ``best``),
``distributed``, ``calibrate``, ``stage``, ``commands``.
"""
