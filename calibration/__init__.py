"""Real batches become ranges.

In the order of the flow: ``settings``, ``histogram``, ``counting``, ``observers`` (what passes through the quantizers),
``ranges`` (one method a file), ``candidates``, ``probe`` and ``replay`` and ``search`` (the method ``best``),
``channels`` and ``log_counts`` and ``evidence`` (what is kept of every tensor), ``distributed``, ``range_rows``,
``calibrate``, ``stage``, ``range_listing``, ``range_edits``, ``commands``, ``ranges_command``, ``sensitivity``.
"""
