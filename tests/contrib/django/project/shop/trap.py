"""Nothing may import this because a job names it."""

import os
import pathlib

pathlib.Path(os.environ["TRAP"]).touch()


def spring():
    pass
