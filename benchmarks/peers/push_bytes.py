"""Prepared bytes on a bare socket: what no client can do without. push_bytes.py QUEUE"""

import os
import sys

from line import Line
from turns import ARGS, JOBTYPE, take_turns

from faktory.proto import encode_push, encode_push_bulk, new_jid
from faktory.wire.address import parse

line = Line(parse(os.environ["FAKTORY_URL"]))
line.socket.settimeout(None)  # with a timeout, Python asks the kernel before each step
job = {"jobtype": JOBTYPE, "args": ARGS, "queue": sys.argv[1], "retry": 25}
single = encode_push({**job, "jid": new_jid()})
thousand = encode_push_bulk([{**job, "jid": new_jid()} for _ in range(1000)])


def push(count):
    for _ in range(count):
        line.socket.sendall(single)
        line.socket.recv(4096)


def bulk(count):
    for _ in range(count // 1000):
        line.say(thousand)


take_turns({"push": push, "bulk": bulk})
