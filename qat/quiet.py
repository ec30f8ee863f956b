"""What other libraries say on the way, held back where our own messages say more."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger

from transformers.utils import logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside the block transformers shows errors only and no progress bars; afterwards as before."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quiet_logger(name: str) -> Iterator[None]:
    """Inside the block the logger of that name says nothing; afterwards as before."""
    logger = getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
