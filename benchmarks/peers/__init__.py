"""Side by side with other quantizers, on the same checkpoint, rows and batches; the modules in the order they work.

row             a peer, and the rows it has in the table: as shipped, at its best, with our placement
roster          who takes part
environments    each peer's own virtual environment, from pinned versions
job             what a peer is given and what it answers, as files
worker          runs inside a peer's environment: times, quantizes, answers
*_peer          one peer a file, its package imported only where it is used
float_graph     the float ONNX graph that the graph quantizers start from
contest         every row in a process of its own; a row that fails is kept with its error
score           accuracy, and differences with their paired standard errors
table           the result as 80-column text
commands        ``python -m benchmarks.peers``
"""
