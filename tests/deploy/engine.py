"""Replaces Docker for deploy/roll, with gateways of a Stack as containers: a program `docker` that forwards to this process."""

import json
import re
import signal
import socketserver
import subprocess
import sys
import threading

from stack import PATIENCE_SECONDS

DOCKER = """#!{python}
import json, socket, sys
with socket.socket(socket.AF_UNIX) as engine:
    engine.connect({socket!r})
    engine.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    status, said = json.loads(engine.makefile().read())
print(said, end="", file=sys.stderr if status else sys.stdout)
sys.exit(status)
"""


class Engine:
    def __init__(self, stack, folder):
        self.stack, self.folder = stack, folder
        self.containers = {}
        self.made = 0
        # Further environment variables of containers that are started from now on.
        self.environment = {}
        self.said = []
        folder.mkdir(exist_ok=True)
        socket = str(folder / "engine.sock")
        docker = folder / "docker"
        docker.write_text(DOCKER.format(python=sys.executable, socket=socket))
        docker.chmod(0o755)
        engine = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                arguments = json.loads(self.rfile.readline())
                engine.said.append(arguments)
                self.wfile.write(json.dumps(engine.answer(arguments)).encode())

        self.server = socketserver.ThreadingUnixStreamServer(socket, Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, arguments):
        match arguments:
            case ["compose", "version"]:
                return 0, "Docker Compose version v2.0.0\n"
            case ["compose", "ps", "-q", "gateway"]:
                return 0, "".join(f"{container}\n" for container in self.containers)
            case ["compose", "up", *options, "gateway"]:
                return self.scale(options)
            case ["exec", container, "/usr/local/bin/tidegate", "health"]:
                return int(not self.stack.is_ready(self.containers[container])), ""
            case ["exec", container, "/usr/local/bin/tidegate", "shed", *options]:
                return self.stack.shed(self.containers[container], options)
            case ["inspect", "-f", what, container]:
                return 0, self.inspect(what, container) + "\n"
            case ["stop", container]:
                process = self.process(container)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                self.stack.vanish(self.containers[container])
                return 0, f"{container}\n"
            case ["rm", container] if self.process(container).poll() is not None:
                del self.containers[container]
                return 0, f"{container}\n"
            case ["rm", "-f", container]:
                self.process(container).kill()
                self.process(container).wait()
                self.stack.vanish(self.containers.pop(container))
                return 0, f"{container}\n"
            case ["logs", "--tail", "20", container]:
                return 0, "\n".join(self.stack.log(self.containers[container]).splitlines()[-20:])
            case _:
                return 1, f"this engine does not know: docker {' '.join(arguments)}\n"

    def process(self, container):
        return self.stack.gateways[self.containers[container]]

    def scale(self, options):
        # Other options would affect nodes that must stay, or build an image.
        wanted = ["-d", "--no-deps", "--no-build", "--no-recreate", "--scale"]
        if options[:-1] != wanted:
            return 1, f"up with {options}\n"
        count = int(options[-1].removeprefix("gateway="))
        while len(self.containers) < count:
            address = next(one for one in self.stack.addresses if one not in self.containers.values())
            self.stack.begin_gateway(address, self.environment)
            self.stack.appear(address)
            self.made += 1
            self.containers[f"{self.made:012x}"] = address
        return 0, ""

    def inspect(self, what, container):
        process = self.process(container)
        values = {
            "State.ExitCode": process.poll() or 0,
            "State.Running": str(process.poll() is None).lower(),
            "RestartCount": 0,
            "Name": f"/tidegate-gateway-{int(container, 16)}",
        }
        return re.sub(r"\{\{\.(.*?)\}\}", lambda found: str(values[found.group(1)]), what)
