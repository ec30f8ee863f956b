"""Fuzzing: what one input of each parser does, for the tests, for ``make soak`` and for a coverage-guided fuzzer."""
