#!/usr/bin/env python3
"""Starts a fake engine whose pushes send only progress: `stream.py SOCKET OBJECTS`.

Unlike a real engine, the fake engine sends OBJECTS progress objects, as fast as the client reads. The objects are those
of docker 28's classic store: 20 layers that advance in turn, then the digest."""

import http.server
import json
import os
import socketserver
import sys

path, objects = sys.argv[1], int(sys.argv[2])
LAYERS, DIGEST = 20, "sha256:" + 64 * "a"


def line(**fields):
    return json.dumps(fields, separators=(",", ":")).encode() + b"\r\n"


def layer(number, status, **fields):
    return line(status=status, progressDetail=fields, id=f"{number:012x}")


def progress(number):
    current = number * 512
    bar = "[=========>                                         ]  10.24MB/512MB"
    return line(status="Pushing", progressDetail={"current": current, "total": objects * 512}, progress=bar,
                id=f"{number % LAYERS:012x}")


BODY = b"".join(
    [layer(number, "Preparing") for number in range(LAYERS)]
    + [progress(number) for number in range(objects)]
    + [layer(number, "Pushed") for number in range(LAYERS)]
    + [line(status=f"1: digest: {DIGEST} size: 528"),
       line(progressDetail={}, aux={"Tag": "1", "Digest": DIGEST, "Size": 528})]
)


class Engine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Api-Version", "1.47")
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        known = {"/_ping": b"OK", "/info": b'{"RegistryConfig":{}}'}
        call = next((call for call in known if self.path.endswith(call)), None)
        self.answer(200, known[call]) if call else self.answer(404, b'{"message":"not known here"}')

    do_HEAD = do_GET

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(200, BODY)

    def address_string(self):
        return "a client"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if os.path.exists(path):
    os.unlink(path)
Server(path, Engine).serve_forever()
