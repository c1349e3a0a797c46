"""The server's program: answers in every way that there is, until all sites have said that they are done."""

from __future__ import annotations

import sys
import threading

import cellbus
from cellbus import Status


def main(sites: int) -> None:
    done: set[str] = set()
    begun = threading.Event()
    cancelled = threading.Event()
    finished = threading.Event()
    with cellbus.connect() as bus:

        @bus.serve("echo", concurrency=8)
        def echo(message: cellbus.Message) -> cellbus.Reply | bytes | None:
            if message.topic == "fail":
                raise KeyError("no such round")
            if message.topic == "refuse":
                raise cellbus.RefusedError(Status.FORBIDDEN)
            if message.topic == "later":
                kept = message.defer()
                threading.Timer(0.05, lambda: kept.reply(b"later")).start()
                return None
            if message.topic == "parts":
                for index in range(3):
                    message.part(b"%d" % index)
                return b"3"
            if message.topic == "has-begun":
                return b"yes" if begun.wait(20) else b"no"
            if message.topic == "late":
                message.wait_cancelled(30)
                return None
            if message.topic == "wait":
                begun.set()
                if message.wait_cancelled(30):
                    cancelled.set()
                return None
            if message.topic == "was-cancelled":
                return b"yes" if cancelled.wait(20) else b"no"
            if message.topic == "fetch":
                fetched = bus.transfers.fetch(bytes(message.payload), patience=60)
                return b"%d %s" % (len(fetched.payload), fetched.headers)
            if message.topic == "headers":
                return message.headers
            if message.topic == "who":
                return f"{message.origin.cell} {message.origin.kind} {message.origin.job}".encode()
            return cellbus.Reply(message.payload, message.content_type)

        @bus.serve("end", "done")
        def end(message: cellbus.Message) -> None:
            done.add(message.origin.cell)
            if len(done) == sites:
                finished.set()

        finished.wait(100)
        print(f"server: {len(done)} sites", flush=True)
    sys.exit(0 if len(done) == sites else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
