"""The formats of checkpoints: values compared one by one, answers, and what is refused."""
