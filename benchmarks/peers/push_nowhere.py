"""Push with our client and declared jobs over a transport that sends nothing. push_nowhere.py

FAKTORY_BENCH_AROUND names what is around them, see `around.py`.
"""

import around  # noqa: F401
from turns import ARGS, take_turns

import faktory
from faktory.client import network
from faktory.proto import JobTemplate
from faktory.wire.session import Answer


class Nowhere:
    """A network, and its transport, that accepts every command without sending it."""

    in_process = False

    def connect(self, *_):
        return self

    def exchange(self, sent):
        return [Answer(command, command.read(_reply(command)), None) for command in sent]

    def close(self): ...
    def abort(self): ...


def _reply(command):
    return {} if command.name == "PUSHB" else "OK"


@faktory.job(queue="images", retry=3)
def resize(image: int, size: str = "full", options: dict[str, float] | None = None) -> None: ...


class Resize(faktory.Job):
    faktory_options = {"queue": "images", "retry": 3}

    def perform(self, image, size="full", options=None): ...


network.use(Nowhere())
faktory.configure(url="tcp://nowhere:1")
client = faktory.Client("tcp://nowhere:1")
job = {"jobtype": "resize", "args": ARGS, "queue": "images", "retry": 3}
template = JobTemplate("resize", {"queue": "images", "retry": 3})
image, size, options = ARGS


def repeat(work):
    def run(count):
        for _ in range(count):
            work()

    return run


take_turns(
    {
        "push": repeat(lambda: client.push(job)),
        "perform_async": repeat(lambda: resize.perform_async(*ARGS)),
        "by_keywords": repeat(lambda: resize.perform_async(image, size=size, options=options)),
        "of_a_class": repeat(lambda: Resize.perform_async(*ARGS)),
        "perform_in": repeat(lambda: resize.perform_in(60, *ARGS)),
        "set_first": repeat(lambda: resize.set(retry=0).perform_async(*ARGS)),
        "template": lambda count: template.encode_bulk([ARGS] * count),
        "perform_bulk": lambda count: resize.perform_bulk([ARGS] * count),
    }
)
