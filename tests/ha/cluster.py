"""A Patroni cluster of three nodes with etcd and HAProxy, all on this machine."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

NODES = ["db1", "db2", "db3"]
# Long enough that no node is given up for a busy machine.
PATRONI = {"ttl": 20, "loop_wait": 5, "retry_timeout": 5}
PASSWORD = "of-a-cluster-that-goes-at-the-end"


class Failure(Exception):
    """What is told to the person who runs this, without a traceback."""


def say(text):
    print(f"== {text}", flush=True)


def check_tools():
    """Where PostgreSQL's programs are; all that is missing at once, each with what to install."""
    missing = []
    if sys.version_info < (3, 11):
        missing.append(f"Python 3.11 or newer; this is {sys.version.split()[0]}")
    for program, package in [("etcd", "etcd-server"), ("haproxy", "haproxy")]:
        if not shutil.which(program):
            missing.append(f"{program} (apt install {package})")
    bin = os.environ.get("MANYBOX_PG_BIN")
    if not bin and shutil.which("pg_config"):
        bin = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True).stdout.strip()
    for program in ["postgres", "pg_ctl", "pg_basebackup", "pg_rewind"]:
        if not bin or not os.access(Path(bin, program), os.X_OK):
            missing.append(f"{program} in {bin or 'the folder that MANYBOX_PG_BIN names'} (apt install postgresql)")
    if missing:
        raise Failure("this is missing:\n" + "\n".join(f"  - {one}" for one in missing))
    return Path(bin)


def server_user():
    """PostgreSQL does not run as root."""
    return "postgres" if os.geteuid() == 0 else None


def free_ports(count):
    """Ports that nobody listened on a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def asked(url, body=None, method="GET", seconds=2):
    """Status and JSON of an answer; nothing where nobody answers."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as got:
            return got.status, got.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return None, b""


def until(what, seconds, condition):
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise Failure(f"{what} did not happen within {seconds} s")
        time.sleep(0.2)
    return found


class Cluster:
    """etcd, three nodes under Patroni, HAProxy."""

    def __init__(self, folder, bin):
        self.folder, self.bin = folder, bin
        self.processes = {}
        ports = iter(free_ports(2 + 2 * len(NODES) + 1))
        self.etcd, self.etcd_peers = next(ports), next(ports)
        self.postgres = {node: next(ports) for node in NODES}
        self.rest = {node: next(ports) for node in NODES}
        self.haproxy = next(ports)
        if user := server_user():
            shutil.chown(folder, user, user)

    def start(self, name, arguments, user=None):
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                arguments, cwd=self.folder, stdout=log, stderr=log, start_new_session=True, user=user, group=user
            )

    def __enter__(self):
        say(f"starting etcd, {len(NODES)} nodes of {self.bin} and HAProxy")
        self.start_etcd()
        for node in NODES:
            self.write_node(node)
            self.start_node(node)
        until("a primary with two standbys", 120, self.whole)
        self.write_haproxy()
        self.start("haproxy", ["haproxy", "-db", "-f", self.folder / "haproxy.cfg"])
        return self

    def __exit__(self, *_):
        import psutil

        # Patroni's PostgreSQLs are no children of it.
        for node in NODES:
            for process in self.server(node):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        for process in self.processes.values():
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start_etcd(self):
        here, peers = f"http://127.0.0.1:{self.etcd}", f"http://127.0.0.1:{self.etcd_peers}"
        arguments = ["etcd", "--data-dir", self.folder / "etcd", "--log-level", "error"]
        for name, url in [("client", here), ("peer", peers)]:
            arguments += [f"--listen-{name}-urls", url]
        arguments += ["--advertise-client-urls", here, "--initial-advertise-peer-urls", peers]
        self.start("etcd", [*arguments, "--initial-cluster", f"default={peers}"])
        until("etcd", 30, lambda: asked(f"{here}/health")[0] == 200)

    def start_node(self, node):
        self.start(node, [sys.executable, "-m", "patroni", self.folder / f"{node}.json"], server_user())

    def write_node(self, node):
        everybody = ["host all all 127.0.0.1/32 scram-sha-256", "host replication all 127.0.0.1/32 scram-sha-256"]
        settings = {
            "scope": "fleet",
            "name": node,
            "restapi": {"listen": f"127.0.0.1:{self.rest[node]}", "connect_address": f"127.0.0.1:{self.rest[node]}"},
            "etcd3": {"host": f"127.0.0.1:{self.etcd}"},
            "bootstrap": {
                "dcs": {
                    **PATRONI,
                    "synchronous_mode": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"max_connections": 200, "wal_log_hints": "on", "max_wal_senders": 10},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "scram-sha-256"}],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.postgres[node]}",
                "connect_address": f"127.0.0.1:{self.postgres[node]}",
                "data_dir": str(self.folder / node),
                "bin_dir": str(self.bin),
                "pgpass": str(self.folder / f"{node}.pgpass"),
                "pg_hba": everybody,
                "authentication": {
                    "superuser": {"username": "postgres", "password": PASSWORD},
                    "replication": {"username": "replicator", "password": PASSWORD},
                },
                "parameters": {"unix_socket_directories": ""},
            },
        }
        # JSON is YAML.
        (self.folder / f"{node}.json").write_text(json.dumps(settings))

    def write_haproxy(self):
        servers = "\n".join(
            f"    server {node} 127.0.0.1:{self.postgres[node]} check port {self.rest[node]}" for node in NODES
        )
        # As docs/high-availability.md has it.
        (self.folder / "haproxy.cfg").write_text(f"""
global
    log stdout format timed local0 notice
listen postgres
    log global
    bind 127.0.0.1:{self.haproxy}
    mode tcp
    option httpchk GET /primary
    http-check expect status 200
    timeout connect 2s
    timeout client 30m
    timeout server 30m
    timeout client-fin 5s
    timeout server-fin 5s
    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
""")

    def members(self):
        """What each node says of itself, as far as anybody answers."""
        for node in NODES:
            status, body = asked(f"http://127.0.0.1:{self.rest[node]}/cluster")
            if status == 200:
                return {member["name"]: member for member in json.loads(body)["members"]}
        return {}

    def leader(self):
        members = self.members().values()
        return next((one["name"] for one in members if one["role"] == "leader" and one["state"] == "running"), None)

    def whole(self):
        """One primary, a synchronous standby, and another that streams too."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise Failure(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-1000:]}")
        members = list(self.members().values())
        states = sorted((one["role"], one["state"]) for one in members)
        if states != [("leader", "running"), ("replica", "streaming"), ("sync_standby", "streaming")]:
            return False
        # That was what Patroni saw last.
        import psycopg2

        try:
            primary = next(one["name"] for one in members if one["role"] == "leader")
            with contextlib.closing(self.session(primary)) as session:
                cursor = session.cursor()
                cursor.execute("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
                return cursor.fetchone() == (len(NODES) - 1,)
        except psycopg2.Error:
            return False

    def session(self, node, database="postgres"):
        import psycopg2

        session = psycopg2.connect(
            host="127.0.0.1",
            port=self.postgres[node],
            user="postgres",
            password=PASSWORD,
            dbname=database,
            connect_timeout=2,
        )
        session.autocommit = True
        return session

    def server(self, node):
        """The processes of a node's PostgreSQL."""
        import psutil

        try:
            pid = int((self.folder / node / "postmaster.pid").read_text().split()[0])
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children(recursive=True)] if "postgres" in postmaster.name() else []
        except (OSError, IndexError, ValueError, psutil.Error):
            return []

    def patroni(self, node):
        import psutil

        return psutil.Process(self.processes[node].pid)


def each(processes, action):
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            getattr(process, action)()
