#!/usr/bin/env python3
"""Makes docs/terminal.svg: pushes two images to a registry, and draws the terminal when only one image has been pushed.

Needs a running engine, the docker CLI with the installed plugin, docker-registry and tmux. Starts a registry behind a
proxy at port 5005 of this machine, and the proxy limits the upload rate. Removes the registry and images at the end."""

import html
import io
import json
import hashlib
import os
import pathlib
import re
import socket
import subprocess
import tarfile
import tempfile
import threading
import time

PORT = 5005
RATE = 24_000_000  # bytes per second of all uploads together
COLUMNS, ROWS = 96, 20
# Each image has a list of the sizes of its layers in MB. docker uploads five layers at once.
IMAGES = {"app:1.2": [24, 30, 36, 48], "web:3": [8]}
COMMAND = f"docker regpush app:1.2 web:3 --to localhost:{PORT}/team/"
COLOURS = {"2": "#7b8394", "31": "#e06c75", "32": "#98c379", "33": "#e5c07b"}
CHARACTER, LINE, MARGIN = 7.8, 17, 12  # in pixels


def archive(name, sizes):
    """Returns the tar archive of an image for `docker load`, with random layers of the given sizes in MB."""
    files, diff_ids = {}, []
    for size in sizes:
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            entry = tarfile.TarInfo("content")
            entry.size = size * 1_000_000
            tar.addfile(entry, io.BytesIO(os.urandom(entry.size)))
        digest = hashlib.sha256(layer.getvalue()).hexdigest()
        files[f"{digest}.tar"] = layer.getvalue()
        diff_ids.append(f"sha256:{digest}")
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    files["config.json"] = json.dumps(config).encode()
    layers = [digest.removeprefix("sha256:") + ".tar" for digest in diff_ids]
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]).encode()
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return image.getvalue()


def start_proxy(target):
    """Starts a proxy from PORT to the port `target`, which limits the rate of all uploads together to RATE."""
    listener = socket.create_server(("127.0.0.1", PORT))
    turn = threading.Lock()

    def copy(source, sink, limited):
        try:
            while data := source.recv(1 << 16):
                if limited:
                    with turn:
                        time.sleep(len(data) / RATE)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept():
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", target))
            except OSError:
                return  # The registry has exited.
            threading.Thread(target=copy, args=(client, server, True), daemon=True).start()
            threading.Thread(target=copy, args=(server, client, False), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def svg(screen):
    """Converts the content of a terminal with SGR colours (ECMA-48, 8.3.117) to the lines of an SVG file."""
    lines = screen.rstrip("\n").split("\n")
    width = round(COLUMNS * CHARACTER + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'role="img" aria-label="docker regpush pushing two images">'
    )
    yield '<rect width="100%" height="100%" rx="6" fill="#1e1e24"/>'
    yield (
        '<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="13" fill="#d8dee9" '
        'xml:space="preserve">'
    )
    colour = None
    for number, line in enumerate(lines):
        spans = []
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            if part.startswith("\x1b"):
                codes = part[2:-1].split(";")
                colour = next((COLOURS[code] for code in codes if code in COLOURS), None)
            elif part and colour:
                spans.append(f'<tspan fill="{colour}">{html.escape(part)}</tspan>')
            else:
                spans.append(html.escape(part))
        yield f'<text x="{MARGIN}" y="{MARGIN + 13 + number * LINE}">{"".join(spans)}</text>'
    yield "</g>"
    yield "</svg>"


def wait_for_screen(tmux):
    """Waits until one image is pushed and 50 % to 95 % of all bytes are sent, and returns the screen."""
    for _ in range(600):
        screen = tmux("capture-pane", "-e", "-p")
        percent = re.search(r"(\d+) %", screen)
        if "pushed localhost" in screen and percent and 50 <= int(percent[1]) < 95:
            return screen
        time.sleep(0.05)
    raise SystemExit(f"the push did not get that far:\n{screen}")


def main():
    for name in IMAGES:
        # `docker load` would move the tag of an existing image.
        inspected = subprocess.run(["docker", "image", "inspect", name], capture_output=True)
        if inspected.returncode == 0:
            raise SystemExit(f"the engine has an image {name}: use another engine, or remove this tag first")
    with tempfile.TemporaryDirectory() as directory:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": directory}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        settings = pathlib.Path(directory, "registry.json")
        settings.write_text(json.dumps(config))
        registry = subprocess.Popen(["docker-registry", "serve", settings], stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL)
        tmux_socket = os.path.join(directory, "tmux")

        def tmux(*arguments):
            return subprocess.run(["tmux", "-S", tmux_socket, "-f", "/dev/null", *arguments],
                                  check=True, text=True, stdout=subprocess.PIPE).stdout

        try:
            start_proxy(port)
            for name, sizes in IMAGES.items():
                subprocess.run(["docker", "load", "-q"], input=archive(name, sizes), check=True)
            script = f"printf '$ %s\\n' '{COMMAND}'; {COMMAND}; sleep 60"
            tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), script)
            try:
                screen = wait_for_screen(tmux)
            finally:
                tmux("kill-server")
        finally:
            registry.terminate()
            registry.wait()
            subprocess.run(["docker", "rmi", "-f", *IMAGES], stdout=subprocess.DEVNULL)
    path = pathlib.Path(__file__).with_name("terminal.svg")
    path.write_text("\n".join(svg(screen)) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
