"""Attention heads taken out of a model, as ``pruned_heads`` in its configuration says."""
def read_pruned_heads(config): return {}
def cut_heads(model, family, heads): pass
