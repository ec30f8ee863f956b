"""Side by side with other quantizers, on the same checkpoint, rows and batches; the modules in the order they work.

row             a peer, and the rows it has in the table: as shipped, at its best, with our placement
roster          who takes part
environments    each peer's own virtual environment, from pinned versions
job             what a peer is given and what it answers, as files
process         a module run by an interpreter of any environment
worker          runs inside a peer's environment: quantizes, answers, is timed beside the float model
*_peer          one peer a file, its package imported only where it is used; ours is four, as trained and as deployed
float_graph     the float ONNX graph that the graph quantizers start from
costs, plan     how fast a row's model runs, and what TensorRT for RTX makes of its graph
contest         every row in a process of its own; a row that fails is kept with its error
training        the steps of quantization-aware training
written         what a user writes, from ``snippets/``: counted and run
score           accuracy, and differences with their paired standard errors
result          all of it as JSON values, and read again
table           the rows as 80-column text, cost_table what they cost, text what both share
commands        ``python -m benchmarks.peers``
"""
