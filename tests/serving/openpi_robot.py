"""A robot's process in a venv of its own, with openpi-client as it is.

Usage: openpi_robot.py URL [HORIZON]. With a horizon the client is within openpi's ActionChunkBroker, which
plays that many actions of each reply. Observations come in on stdin, replies go out on stdout. Each is a
frame: its length in 4 bytes, then msgpack. An empty frame begins an episode with a new client, as robots do.
"""

import struct
import sys

from openpi_client import action_chunk_broker, msgpack_numpy, websocket_client_policy


def main() -> None:
    policy, source, sink = None, sys.stdin.buffer, sys.stdout.buffer
    while header := source.read(4):
        (size,) = struct.unpack("<I", header)
        if not size:
            policy = client = websocket_client_policy.WebsocketClientPolicy(sys.argv[1])
            if len(sys.argv) > 2:
                policy = action_chunk_broker.ActionChunkBroker(client, int(sys.argv[2]))
            reply = client.get_server_metadata()
        else:
            try:
                reply = policy.infer(msgpack_numpy.unpackb(source.read(size)))
            except RuntimeError as error:  # the client raises it for a refusal of the server
                reply = {"refused": str(error)}
        data = msgpack_numpy.packb(reply)
        sink.write(struct.pack("<I", len(data)) + data)
        sink.flush()


if __name__ == "__main__":
    main()
