"""Any decoder that says one token after the other: a checkpoint in torch, or an exported folder's two graphs."""

from functools import partial
from pathlib import Path

from export.decoder_graphs import STEP_FILE
from export.exported import MODEL_FILE
from export.runners.greedy_decoder import GreedyDecoder
from export.runners.load import load_runner
from export.runners.running import Running, refuse_provider
from export.runners.torch_decoder import split_decoder
from qat.checkpoint import load_checkpoint, read_config
from qat.errors import BuildError, CheckpointError
from qat.families import longest_row
from qat.tasks import find_task

_TASK = "text-generation"


def load_decoder(
    artefact: Path | str, *, optimized: bool = True, threads: int = 0, running: Running | None = None
) -> GreedyDecoder:
    """The decoder of a checkpoint or an exported folder, to be opened by ``with``.

    Args:
        artefact: a checkpoint that generates, a folder exported from one, or its ``model.onnx``.
        optimized: as of ``load_runner``.
        threads: as of ``load_runner``.
        running: as of ``load_runner``.

    Raises:
        CheckpointError: no such folder, one without a step, or another graph.
        BuildError: an engine; else as ``load_runner``.
    """
    path = Path(artefact)
    if path.suffix == ".engine":
        raise BuildError(
            f"{path} is the engine of one of a decoder's two graphs, and going on with a text takes both: give the "
            "exported folder that it was built from, or the checkpoint"
        )
    folder = path.parent if path.suffix == ".onnx" else path
    if path not in (folder, folder / MODEL_FILE):
        raise CheckpointError(f"{path} is not the graph that reads prompts: give the folder, or {folder / MODEL_FILE}")
    longest = longest_row(read_config(folder))
    if not any((folder / name).is_file() for name in (MODEL_FILE, STEP_FILE)):
        refuse_provider(running or Running(), "torch")
        prompt, step = split_decoder(load_checkpoint(folder, find_task(_TASK)).model)
        return GreedyDecoder(prompt, step, longest=longest)
    if not (folder / STEP_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {STEP_FILE}, the graph that says one token more: give a folder that qdq export wrote of "
            f"a checkpoint for {_TASK}"
        )
    load = partial(load_runner, optimized=optimized, threads=threads, running=running, kept=True)
    return GreedyDecoder(load(folder / MODEL_FILE), load(folder / STEP_FILE), longest=longest)
