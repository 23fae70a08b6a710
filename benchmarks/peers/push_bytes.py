"""Push prepared bytes on a bare socket: the minimum for any client. push_bytes.py QUEUE"""

import os
import sys

from connection import Connection
from turns import ARGS, JOBTYPE, take_turns

from faktory.proto import encode_push, encode_push_bulk, new_jid
from faktory.wire.address import parse

connection = Connection(parse(os.environ["FAKTORY_URL"]))
connection.socket.settimeout(None)  # with a timeout, Python polls before each call
job = {"jobtype": JOBTYPE, "args": ARGS, "queue": sys.argv[1], "retry": 25}
single = encode_push({**job, "jid": new_jid()})
thousand = encode_push_bulk([{**job, "jid": new_jid()} for _ in range(1000)])


def push(count):
    for _ in range(count):
        connection.socket.sendall(single)
        connection.socket.recv(4096)


def bulk(count):
    for _ in range(count // 1000):
        connection.call(thousand)


take_turns({"push": push, "bulk": bulk})
