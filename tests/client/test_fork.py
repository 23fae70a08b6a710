from __future__ import annotations

import gc
import weakref

from faktory.client import fork


class Known:
    def __init__(self) -> None:
        self.started = 0

    def reset_after_fork(self) -> None:
        self.started += 1


def test_registered_objects_are_reset_once_in_each_child_and_not_in_the_parent(in_child):
    known = [Known(), Known()]
    for one in known:
        fork.register(one)

    def look():
        return [one.started for one in known]

    assert in_child(look) == [1, 1]
    assert in_child(lambda: [look(), in_child(look)]) == [[1, 1], [2, 2]]
    assert look() == [0, 0]


def test_registering_does_not_keep_an_object_alive():
    known = Known()
    fork.register(known)
    gone = weakref.ref(known)
    del known
    gc.collect()
    assert gone() is None
