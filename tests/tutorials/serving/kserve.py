"""A stand-in for a Triton server: the KServe v2 protocol over HTTP, tensors as JSON or as the binary data after it.

It serves a deployed folder as its configuration says, by ONNX Runtime, and refuses what a server would refuse.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.deploy.model_config import read_config

Shapes = list[tuple[int, ...]]


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Shapes]]:
    """The address of a server of the model in ``folder``, and the shapes of ``input_ids`` it was sent, as they come."""
    config = read_config(folder / "config.pbtxt")
    session = ort.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    seen: Shapes = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the library
            return None

        def do_GET(self) -> None:
            assert self.path == f"/v2/models/{config.name}"
            inputs = [{"name": each.name, "datatype": "INT64", "shape": [-1, *each.dims]} for each in config.input]
            self._send(200, {"name": config.name, "inputs": inputs})

        def do_POST(self) -> None:
            assert self.path == f"/v2/models/{config.name}/infer"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            end = int(self.headers.get("Inference-Header-Content-Length", len(body)))
            feed = _read_tensors(json.loads(body[:end]), body[end:])
            refused = _refuse(config, feed)
            if refused:
                self._send(400, {"error": refused})
                return
            seen.append(feed["input_ids"].shape)
            (logits,) = session.run(["logits"], dict(feed))
            output = {"name": "logits", "datatype": "FP32", "shape": logits.shape, "data": logits.ravel().tolist()}
            self._send(200, {"model_name": config.name, "model_version": "1", "outputs": [output]})

        def _send(self, code: int, value: Mapping[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _read_tensors(header: Mapping[str, Any], binary: bytes) -> dict[str, NDArray[np.int64]]:
    feed, start = {}, 0
    for tensor in header["inputs"]:
        assert tensor["datatype"] == "INT64"
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(tensor["data"], dtype=np.int64)
        else:
            values = np.frombuffer(binary[start : start + size], dtype="<i8")
            start += size
        feed[tensor["name"]] = values.reshape(tensor["shape"])
    assert start == len(binary)
    return feed


def _refuse(config: Any, feed: Mapping[str, NDArray[np.int64]]) -> str:
    """What a server answers to inputs it was not configured for; empty where it takes them."""
    for declared in config.input:
        if declared.name not in feed:
            return f"expected {len(config.input)} inputs but got {len(feed)} inputs for model '{config.name}'"
        shape, dims = feed[declared.name].shape, list(declared.dims)
        if shape[0] > config.max_batch_size:
            return f"inference request batch-size must be <= {config.max_batch_size} for '{config.name}'"
        alike = len(shape) == len(dims) + 1
        if not alike or any(want not in (-1, have) for have, want in zip(shape[1:], dims, strict=True)):
            return f"unexpected shape for input '{declared.name}' for model '{config.name}'"
    return ""
