"""A broker as the parent sees one: it says that it serves, and writes down every record it hears as a line of JSON."""

import argparse
import dataclasses
import json
import os
import signal
import socket
import sys
import time

from ragpool.wire.codec import decode_datagram, encode_datagram
from ragpool.wire.messages import FROM_PARENT, Control, Drain, Drained, Ping, Pong, Serving


def first_time(marker: str) -> bool:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour")
    parser.add_argument("--token")
    parser.add_argument("--heard", required=True)
    parser.add_argument("--channel-fd", type=int, required=True)
    given = parser.parse_args()
    channel = socket.socket(fileno=given.channel_fd)
    if given.behaviour == "misconfigured":
        sys.exit(print("port 5555 is in use", file=sys.stderr) or 78)
    if given.behaviour == "broken":
        sys.exit("Error: no luck")
    channel.send(encode_datagram(Serving("tcp://127.0.0.1:5555", "ipc:///nowhere")))
    if given.behaviour == "garbage" and first_time(given.heard + ".marker"):
        channel.send(b"\xc1 this is no record")
    if given.behaviour == "closes" and first_time(given.heard + ".marker"):
        channel.close()
        signal.pause()
    if given.behaviour == "deaf":
        time.sleep(600)
    with open(given.heard, "a") as heard:
        while data := channel.recv(1 << 20):
            record = decode_datagram(data, FROM_PARENT)
            commands = given.heard + ".commands"
            if os.path.exists(commands):
                with open(commands) as file:
                    wanted = json.load(file)
                os.unlink(commands)
                for command, argument in wanted:
                    channel.send(encode_datagram(Control(command, argument)))
            if isinstance(record, Ping):
                if given.behaviour != "hangs" or not first_time(given.heard + ".marker"):
                    channel.send(encode_datagram(Pong("epoch")))
                    continue
                time.sleep(600)
            plain = dataclasses.asdict(record) | {"kind": type(record).__name__, "heard_at": time.monotonic(), "pid": os.getpid()}
            heard.write(json.dumps(plain, default=bytes.hex) + "\n")
            heard.flush()
            if isinstance(record, Drain) and given.behaviour != "never_drained":
                channel.send(encode_datagram(Drained()))


if __name__ == "__main__":
    main()
