"""Where a run happens: three network namespaces, joined by two cables.

    a ---- hub ---- b

Each device has one network interface, so all that it sends and receives is counted there, headers included. Everything
that is started belongs to the run and ends with it. Needs root and iproute2.
"""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

DEVICES = ("a", "b")
HUB = {"a": "10.91.1.1", "b": "10.91.2.1"}       # the hub's address as each device sees it
OWN = {"a": "10.91.1.2", "b": "10.91.2.2"}
TICKS = os.sysconf("SC_CLK_TCK")


def ip(*words, check=True):
    subprocess.run(["ip", *words], check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Place:
    """The namespaces, and the processes in them."""

    def __init__(self, directory, rate=None, line=None):
        """`rate`: of both cables, as tc writes it. `line`: Mbit/s and milliseconds there and back, in place of cables."""
        self.root = Path(directory)
        self.tag = f"slbench{os.getpid()}"
        self.running = []                        # (node, Popen)
        self.used = {}                           # node -> CPU seconds of what has ended
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        for node in ("hub", *DEVICES):
            ip("netns", "add", self.name(node))
            ip("-n", self.name(node), "link", "set", "lo", "up")
            # Else the kernel asks for routers and groups that nobody needs, and is counted too.
            quiet = "echo 1 | tee /proc/sys/net/ipv6/conf/all/disable_ipv6 /proc/sys/net/ipv6/conf/default/disable_ipv6"
            subprocess.run(self.within(node, ["sh", "-c", quiet]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.lines = []
        for device in DEVICES:
            far = f"to-{device}"
            if line:
                self.lines.append(self.long_line(device, far, line))
                continue
            ip("link", "add", "cable", "netns", self.name(device), "type", "veth", "peer", "name", far, "netns", self.name("hub"))
            for node, end, address in ((device, "cable", OWN[device]), ("hub", far, HUB[device])):
                ip("-n", self.name(node), "addr", "add", f"{address}/24", "dev", end)
                ip("-n", self.name(node), "link", "set", end, "up")
                if rate:
                    subprocess.run(["tc", "-n", self.name(node), "qdisc", "replace", "dev", end, "root", "tbf", "rate", rate,
                                    "burst", "256kb", "latency", "100ms"], check=True)
        self.anchors = {device: self.start(device, ["sleep", "infinity"]) for device in DEVICES}

    def long_line(self, device, far, line):
        ends = [self.name(device), "cable", OWN[device], self.name("hub"), far, HUB[device]]
        program = [sys.executable, Path(__file__).with_name("line.py"), *ends, *line]
        process = subprocess.Popen(list(map(str, program)), stdout=subprocess.PIPE, text=True, start_new_session=True)
        if process.stdout.readline() != "ready\n":
            raise SystemExit("no long line can be made: it needs /dev/net/tun")
        return process

    def hurry(self, on):
        """Lifts the limits of the long lines, or sets them again."""
        for process in self.lines:
            process.send_signal(signal.SIGUSR1 if on else signal.SIGUSR2)

    def name(self, node):
        return f"{self.tag}-{node}"

    def within(self, node, command):
        return ["ip", "netns", "exec", self.name(node), *map(str, command)]

    def start(self, node, command, **options):
        log = open(self.root / f"{node}.log", "ab")
        process = subprocess.Popen(self.within(node, command), stdout=log, stderr=log, start_new_session=True, **options)
        self.running.append((node, process))
        return process

    def run(self, node, command, timeout=900, **options):
        """Runs a program to its end; whether it succeeded."""
        process = self.start(node, command, **options)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                self.running.remove((node, process))
                process.returncode = os.waitstatus_to_exitcode(status)
                self.used[node] = self.used.get(node, 0) + usage.ru_utime + usage.ru_stime
                return process.returncode == 0
            time.sleep(0.005)
        self.end(process)
        return False

    def end(self, process, how=signal.SIGTERM):
        """Ends one of our processes, with what it started."""
        for one in [one for one in self.running if one[1] is process]:
            self.running.remove(one)
            self.used[one[0]] = self.used.get(one[0], 0) + cpu_of(process.pid)
            try:
                os.killpg(process.pid, how)
                process.wait(20)
            except ProcessLookupError:
                pass
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def traffic(self):
        """Bytes that each device has sent and received."""
        counted = {}
        for device, anchor in self.anchors.items():
            for line in Path(f"/proc/{anchor.pid}/net/dev").read_text().splitlines():
                if line.strip().startswith("cable:"):
                    fields = line.split(":")[1].split()
                    counted[f"{device} down"], counted[f"{device} up"] = int(fields[0]), int(fields[8])
        return counted

    def cpu(self):
        """CPU seconds of each node since the beginning."""
        total = dict(self.used)
        for node, process in self.running:
            total[node] = total.get(node, 0) + cpu_of(process.pid)
        return total

    def memory(self, node):
        """The most memory that a process of the node has had, in bytes."""
        peaks = [peak_of(pid) for _, process in self.running if _ == node for pid in session_of(process.pid)]
        return max(peaks, default=0)

    def close(self):
        for _, process in list(self.running):
            self.end(process)
        for process in self.lines:
            process.kill()
            process.wait()
        for node in ("hub", *DEVICES):
            ip("netns", "del", self.name(node), check=False)


def session_of(leader):
    """The processes of a session."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == leader:
                found.append(int(entry))
    return found


def cpu_of(leader):
    """CPU seconds of a session, those of its ended children included."""
    ticks = 0
    for pid in session_of(leader):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def peak_of(pid):
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def others(place):
    """CPU seconds that this machine has spent on anything else."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]))
    busy = sum(fields[:3] + fields[5:7]) / TICKS
    return busy - sum(place.cpu().values()) - time.process_time()
