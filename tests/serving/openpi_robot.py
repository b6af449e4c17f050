"""A robot's process in the venv of openpi-client alone: observations come in by stdin, actions go out by
stdout, unmodified client between.

usage: openpi_robot.py URL. A frame is its length, 4 bytes, and msgpack; an empty one begins an episode: a new
client, as robots do.
"""

import struct
import sys

from openpi_client import msgpack_numpy, websocket_client_policy


def main() -> None:
    policy, source, sink = None, sys.stdin.buffer, sys.stdout.buffer
    while header := source.read(4):
        (size,) = struct.unpack("<I", header)
        if not size:
            policy = websocket_client_policy.WebsocketClientPolicy(sys.argv[1])
            reply = policy.get_server_metadata()
        else:
            try:
                reply = policy.infer(msgpack_numpy.unpackb(source.read(size)))
            except RuntimeError as error:  # how the client hands on what the server refuses
                reply = {"refused": str(error)}
        data = msgpack_numpy.packb(reply)
        sink.write(struct.pack("<I", len(data)) + data)
        sink.flush()


if __name__ == "__main__":
    main()
