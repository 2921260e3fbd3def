"""What is compared: how each system is set up, started and, if it does not run by itself, told to sync."""
import os
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as xml
from pathlib import Path

from place import DEVICES, HUB

EMAIL, PASSWORD = "bench@example.org", "a long enough password"


def output(*command, **options):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options).stdout


class System:
    runs_by_itself = False
    own_names = ()                               # what it keeps in a synced folder for itself

    def __init__(self, place):
        self.place = place
        self.clients = {}
        for node in ("hub", *DEVICES):
            (place.root / node).mkdir(exist_ok=True)
        for device in DEVICES:
            self.folder(device).mkdir()

    def folder(self, device):
        return self.place.root / device / "folder"

    def wait_for_port(self, port):
        for _ in range(600):
            if self.place.run("hub", ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]):
                return
            time.sleep(0.05)
        raise SystemExit(f"{type(self).__name__}: nothing listens on port {port}")

    def stop_client(self, device, how=signal.SIGTERM):
        self.place.end(self.clients.pop(device), how)

    def sync(self):
        """One pass from a to b, of a system that does not run by itself."""


class Syncline(System):
    runs_by_itself = True
    own_names = (".syncline",)
    program = os.environ.get("SYNCLINE_PROGRAM", "target/release/syncline")
    environment = None

    @classmethod
    def version(cls):
        return output(cls.program, "--version").split()[1]

    def start(self, encrypted=False):
        self.program = str(Path(self.program).resolve())
        data = self.place.root / "hub" / "data"
        listen = "127.0.0.1" if encrypted else "0.0.0.0"
        self.server_command = [self.program, "server", "--data", data, "--listen", f"{listen}:8420"]
        self.server = self.place.start("hub", self.server_command)
        self.wait_for_port(8420)
        if encrypted:
            self.start_proxy()
        output(self.program, "admin", "--data", data, "user", "add", EMAIL, "--password-stdin", input=PASSWORD + "\n")
        for device in DEVICES:
            address = f"https://{HUB[device]}:8443" if encrypted else f"http://{HUB[device]}:8420"
            self.command(device, "link", address, "--email", EMAIL, "--password-stdin",
                         "--folder", self.folder(device), "--name", device)
            # A deletion of thousands of files would wait for a person.
            self.command(device, "config", "set", "delete-guard", "off")
            self.start_client(device)

    def restart_server(self):
        """As if its machine had lost power, but for the disk."""
        self.place.end(self.server, signal.SIGKILL)
        time.sleep(1)
        self.server = self.place.start("hub", self.server_command)

    def start_proxy(self):
        """HAProxy with a certificate of an authority that only these devices know."""
        hub = self.place.root / "hub"
        names = ",".join(f"IP:{address}" for address in HUB.values())
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
        for words in (
            ["-x509", *curve, "-subj", "/CN=bench", "-keyout", hub / "ca.key", "-out", hub / "ca.pem"],
            ["-x509", *curve, "-subj", "/CN=hub", "-addext", f"subjectAltName={names}", "-CA", hub / "ca.pem", "-CAkey",
             hub / "ca.key", "-addext", "basicConstraints=critical,CA:false", "-keyout", hub / "hub.key", "-out", hub / "hub.pem"],
        ):
            subprocess.run(["openssl", "req", *map(str, words)], check=True, stderr=subprocess.DEVNULL)
        (hub / "both.pem").write_text((hub / "hub.pem").read_text() + (hub / "hub.key").read_text())
        settings = hub / "haproxy.cfg"
        settings.write_text(
            "defaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
            f"frontend tls\n bind :8443 ssl crt {hub / 'both.pem'} alpn http/1.1\n default_backend server\n"
            "backend server\n http-reuse always\n server one 127.0.0.1:8420\n")
        self.place.start("hub", ["haproxy", "-f", settings, "-db"])
        self.wait_for_port(8443)
        self.environment = {**os.environ, "SSL_CERT_FILE": str(hub / "ca.pem")}

    def command(self, device, *words):
        home = self.place.root / device / "home"
        command = self.place.within(device, [self.program, "--home", home, *words])
        subprocess.run(command, input=PASSWORD + "\n", text=True, check=True, stdout=subprocess.DEVNULL, env=self.environment)

    def start_client(self, device):
        home = self.place.root / device / "home"
        command = [self.program, "--home", home, "start", "--foreground"]
        self.clients[device] = self.place.start(device, command, env=self.environment)


class Rsync(System):
    """A mirror in two passes, without history, safety or a watcher: how near to the floor the others are."""

    options = ()

    @staticmethod
    def version():
        return output("rsync", "--version").split()[2]

    def start(self):
        store = self.place.root / "hub" / "store"
        store.mkdir()
        settings = self.place.root / "hub" / "rsyncd.conf"
        settings.write_text(f"use chroot = no\nuid = root\ngid = root\n[store]\npath = {store}\nread only = no\n")
        self.place.start("hub", ["rsync", "--daemon", "--no-detach", "--port=8731", f"--config={settings}"])
        self.wait_for_port(8731)

    def sync(self):
        for device, upwards in (("a", True), ("b", False)):
            ends = [f"{self.folder(device)}/", f"rsync://{HUB[device]}:8731/store/"]
            self.place.run(device, ["rsync", "-a", "--delete", "--partial", "--modify-window=-1", *self.options, *(ends if upwards else reversed(ends))])


class DurableRsync(Rsync):
    """The same, and each file is on the disk before it has its name, as with Syncline."""

    options = ("--fsync",)


class Rclone(System):
    """Mirrors over WebDAV, one pass up and one down."""

    @staticmethod
    def version():
        return output("rclone", "version").split()[1]

    def start(self):
        (self.place.root / "hub" / "store").mkdir()
        self.place.start("hub", ["rclone", "serve", "webdav", self.place.root / "hub" / "store", "--addr", ":8732"])
        self.wait_for_port(8732)

    def sync(self):
        for device, upwards in (("a", True), ("b", False)):
            far = f":webdav,url='http://{HUB[device]}:8732',vendor=other:"
            ends = [self.folder(device), far]
            self.place.run(device, ["rclone", "sync", "--config", "/dev/null", "--links", *(ends if upwards else reversed(ends))])


class Unison(System):
    @staticmethod
    def version():
        return output("unison", "-version").split()[2]

    def start(self):
        (self.place.root / "hub" / "store").mkdir()
        environment = {**os.environ, "UNISON": str(self.place.root / "hub" / "unison")}
        self.place.start("hub", ["unison", "-socket", "8733"], env=environment)
        self.wait_for_port(8733)

    def sync(self):
        for device in DEVICES:
            environment = {**os.environ, "UNISON": str(self.place.root / device / "unison")}
            far = f"socket://{HUB[device]}:8733/{self.place.root / 'hub' / 'store'}"
            self.place.run(device, ["unison", self.folder(device), far, "-batch", "-auto", "-times", "-confirmbigdel=false",
                                    "-ui", "text", "-silent"], env=environment)


class Syncthing(System):
    runs_by_itself = True
    own_names = (".stfolder", ".stversions")

    @staticmethod
    def version():
        return output("syncthing", "--version").split()[1]

    def start(self):
        nodes = ("hub", *DEVICES)
        self.folder("hub").mkdir()
        homes = {node: self.place.root / node / "syncthing" for node in nodes}
        for home in homes.values():
            output("syncthing", "generate", "--home", home, "--no-default-folder", "--skip-port-probing")
        ids = {node: output("syncthing", "--home", homes[node], "--device-id").strip() for node in nodes}
        for node in nodes:
            peers = DEVICES if node == "hub" else ("hub",)
            self.configure(homes[node], node, peers, ids)
            process = self.place.start(node, ["syncthing", "serve", "--home", homes[node], "--no-browser", "--no-upgrade"])
            if node in DEVICES:
                self.clients[node] = process

    def configure(self, home, node, peers, ids):
        file = home / "config.xml"
        tree = xml.parse(file)
        root = tree.getroot()
        for old in root.findall("device") + root.findall("folder"):
            root.remove(old)
        options = root.find("options")
        for name, value in (("globalAnnounceEnabled", "false"), ("localAnnounceEnabled", "false"), ("relaysEnabled", "false"),
                            ("natEnabled", "false"), ("urAccepted", "-1"), ("crashReportingEnabled", "false"),
                            ("listenAddress", "tcp://0.0.0.0:8734")):
            for element in options.findall(name)[1:]:
                options.remove(element)
            element = options.find(name)
            (xml.SubElement(options, name) if element is None else element).text = value
        folder = xml.SubElement(root, "folder", id="bench", path=str(self.folder(node)), type="sendreceive",
                                rescanIntervalS="3600", fsWatcherEnabled="true", fsWatcherDelayS="1")
        for other in (node, *peers):
            device = xml.SubElement(root, "device", id=ids[other], name=other, compression="metadata")
            xml.SubElement(device, "address").text = f"tcp://{HUB[node]}:8734" if other == "hub" and node != "hub" else "dynamic"
            xml.SubElement(folder, "device", id=ids[other])
        tree.write(file)

    def start_client(self, device):
        home = self.place.root / device / "syncthing"
        self.clients[device] = self.place.start(device, ["syncthing", "serve", "--home", home, "--no-browser", "--no-upgrade"])


ALL = {"syncline": Syncline, "rsync": Rsync, "rsync-fsync": DurableRsync, "rclone": Rclone, "unison": Unison, "syncthing": Syncthing}
NEEDED = {"syncline": Syncline.program, "rsync-fsync": "rsync", **{name: name for name in ("rsync", "rclone", "unison", "syncthing")}}


def available(name):
    return shutil.which(NEEDED[name]) is not None
