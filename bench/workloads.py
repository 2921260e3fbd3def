"""The workloads: each changes device a's folder and waits until device b's shows the same.

What is put into the folder is made beside it and renamed, so that the clock starts when it is there. After each
measurement both folders are compared by SHA-256.
"""
import hashlib
import os
import random
import shutil
import signal
import statistics
import time
from pathlib import Path

import place as machine

KIB, MIB = 1024, 1024 * 1024
# Passes after which a system that does not run by itself has missed a change.
PASSES = 3
WORDS = [f"{a}{b}{c}" for a in ("re", "un", "over", "in", "de") for b in ("act", "form", "port", "vers", "tend", "ject")
         for c in ("ed", "ing", "ion", "s", "able", "ive")]


class Run:
    """One system in one place."""

    def __init__(self, place, system, runs, source):
        self.place, self.system, self.runs, self.source = place, system, runs, source
        self.a, self.b = system.folder("a"), system.folder("b")
        self.stage = place.root / "stage"
        self.stage.mkdir()

    def measure(self, change, seen, pause=0.01, limit=900):
        """Seconds from a change until b shows it, and what it cost until all is quiet. What was there before is on the
        disk by then, as it is half a minute later anyway: to remove a file that never got there costs next to nothing."""
        os.sync()
        bytes_before, cpu_before = self.place.traffic(), self.place.cpu()
        others_before, began = machine.others(self.place), time.monotonic()
        change()
        self.until(seen, pause, limit)
        seconds = time.monotonic() - began
        self.quiet()
        bytes_after, cpu_after, took = self.place.traffic(), self.place.cpu(), time.monotonic() - began
        equal = fingerprint(self.a, self.system.own_names) == fingerprint(self.b, self.system.own_names)
        return {
            "seconds": seconds,
            "bytes": {name: bytes_after[name] - bytes_before[name] for name in bytes_after},
            "cpu": {node: cpu_after[node] - cpu_before.get(node, 0) for node in cpu_after},
            "memory": {node: self.place.memory(node) for node in ("a", "hub", "b")},
            "outside load": (machine.others(self.place) - others_before) / took,
            "equal": equal,
        }

    def until(self, seen, pause, limit):
        """Whether b shows it in time. What does not run by itself gets some passes: one that takes an edit for none,
        since size and second are the same, would never see it."""
        deadline, passes = time.monotonic() + limit, 0
        while time.monotonic() < deadline and passes < PASSES:
            if not self.system.runs_by_itself:
                self.system.sync()
                passes += 1
            if seen():
                return True
            time.sleep(pause)
        return False

    def quiet(self, limit=30):
        """Until nothing is sent and computed any more."""
        if not self.system.runs_by_itself:
            return
        calm, deadline = 0, time.monotonic() + limit
        while calm < 2 and time.monotonic() < deadline:
            before = sum(self.place.traffic().values()), sum(self.place.cpu().values())
            time.sleep(1)
            after = sum(self.place.traffic().values()), sum(self.place.cpu().values())
            calm = calm + 1 if after[0] - before[0] < 20_000 and after[1] - before[1] < 0.1 else 0

    def put(self, made, name):
        """A file or tree that is ready is renamed into a's folder."""
        seen = has_all(self.b / name, listing(made))
        return self.measure(lambda: os.rename(made, self.a / name), seen)

    def prepare(self, made, name):
        """The same, unmeasured."""
        if not (self.a / name).exists():
            wanted = listing(made())
            os.rename(self.stage / name, self.a / name)
            self.until(lambda: listing(self.b / name) == wanted, 0.1, 900)
            self.quiet()

    def take_away(self, name):
        path = self.a / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.until(lambda: not files_below(self.b / name), 0.1, 900)
        self.quiet()


# What folders hold.

def has_all(top, wanted):
    """Whether all files of a listing are at and below a path, to be asked again and again while they arrive. Each file is
    looked for until it is there and no more, so that the question takes no processor from those that it is about."""
    missing = [(os.path.join(top, name) if name else top, size) for name, size in wanted.items()]

    def seen():
        while missing:
            path, size = missing[-1]
            try:
                if os.lstat(path).st_size != size:
                    return False
            except OSError:
                return False
            missing.pop()
        return True
    return seen


def has_none(top, unwanted):
    """Whether no file of a listing is at and below a path any more, to be asked in the same way."""
    there = [os.path.join(top, name) if name else top for name in unwanted]

    def seen():
        while there:
            if os.path.lexists(there[-1]):
                return False
            there.pop()
        return True
    return seen


def listing(top):
    """The sizes of all files at and below a path."""
    top = Path(top)
    if top.is_file():
        return {"": top.stat().st_size}
    sizes = {}
    for file in files_below(top):
        try:
            sizes[os.path.relpath(file, top)] = os.lstat(file).st_size
        except FileNotFoundError:                # a temporary file that has its name by now
            pass
    return sizes


def files_below(top):
    if Path(top).is_file():
        return [top]
    return [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names]


def fingerprint(top, left_out):
    """Names, kinds and contents of all that is below a path."""
    total = hashlib.sha256()
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in left_out)
        for name in sorted(names):
            path = os.path.join(folder, name)
            total.update(os.path.relpath(path, top).encode(errors="surrogateescape") + b"\0")
            if os.path.islink(path):
                total.update(os.readlink(path).encode())
                continue
            with open(path, "rb") as file:
                while piece := file.read(MIB):
                    total.update(piece)
    return total.hexdigest()


def random_file(path, size, seed=0):
    chance = random.Random(seed)
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(chance.randbytes(MIB))
        file.write(chance.randbytes(size % MIB))
    return path


def text_file(path, size, seed=0):
    chance = random.Random(seed)
    page = " ".join(chance.choices(WORDS, k=200_000)).encode()
    with open(path, "wb") as file:
        while file.tell() < size:
            start = chance.randrange(len(page) // 2)
            file.write(page[start:start + min(len(page) // 2, size - file.tell())])
    return path


def small_files(top, count, folders, smallest, largest, seed=0):
    chance = random.Random(seed)
    for folder in range(folders):
        os.makedirs(top / f"folder {folder}")
    for number in range(count):
        (top / f"folder {number % folders}" / f"file {number}").write_bytes(chance.randbytes(chance.randint(smallest, largest)))
    return top


def piece(path, offset, length):
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError:
        return b""


# The workloads.

def w1(run):
    """One incompressible file of 1 GiB"""
    for number in range(run.runs):
        yield run.put(random_file(run.stage / "large", 1024 * MIB, number), "large")
        run.take_away("large")


def w2(run):
    """10,000 files of 1 to 16 KiB in 200 folders"""
    for number in range(run.runs):
        yield run.put(small_files(run.stage / f"many {number}", 10_000, 200, KIB, 16 * KIB, number), f"many {number}")


def w3(run):
    """A source tree with symlinks"""
    shutil.copytree(run.source, run.stage / "source", symlinks=True)
    yield run.put(run.stage / "source", "source")
    run.take_away("source")


def edits(run, edit, seen):
    run.prepare(lambda: random_file(run.stage / "big", 256 * MIB, 9), "big")
    for number in range(run.runs):
        yield run.measure(lambda: edit(run.a / "big", number), lambda: seen(run.a / "big", run.b / "big"))


def w4(run):
    """1 byte overwritten in the middle of 256 MiB"""
    place = 128 * MIB + 4321

    def edit(path, _):
        with open(path, "r+b") as file:
            file.seek(place)
            old = file.read(1)[0]
            file.seek(place)
            file.write(bytes([(old + 1) % 256]))
    yield from edits(run, edit, lambda a, b: piece(a, place, 1) == piece(b, place, 1))


def w5(run):
    """1 byte inserted at the front of 256 MiB"""
    def edit(path, number):
        with open(path, "rb") as old, open(run.stage / "longer", "wb") as new:
            new.write(bytes([number]))
            shutil.copyfileobj(old, new, MIB)
        os.rename(run.stage / "longer", path)
    yield from edits(run, edit, same_ends)


def w6(run):
    """64 KiB appended to 256 MiB"""
    def edit(path, _):
        with open(path, "ab") as file:
            file.write(os.urandom(64 * KIB))
    yield from edits(run, edit, same_ends)


def same_ends(a, b):
    if not b.exists() or a.stat().st_size != b.stat().st_size:
        return False
    end = a.stat().st_size - 64 * KIB
    return piece(a, 0, 4096) == piece(b, 0, 4096) and piece(a, end, 64 * KIB) == piece(b, end, 64 * KIB)


def w7(run):
    """A folder of 5,000 files renamed"""
    run.prepare(lambda: small_files(run.stage / "folder", 5000, 100, KIB, 16 * KIB, 7), "folder")
    wanted, name = listing(run.a / "folder"), "folder"
    for number in range(run.runs):
        old, name = name, f"renamed {number}"
        arrived, left = has_all(run.b / name, wanted), has_none(run.b / old, wanted)
        yield run.measure(lambda: os.rename(run.a / old, run.a / name), lambda: arrived() and left())
    run.take_away(name)


def w8(run):
    """A synced file of 256 MiB copied"""
    run.prepare(lambda: random_file(run.stage / "big", 256 * MIB, 9), "big")
    for _ in range(run.runs):
        yield run.put(shutil.copyfile(run.a / "big", run.stage / "copy"), "copy")
        run.take_away("copy")


def w9(run):
    """A file of 1 KiB made, until it can be read"""
    (run.a / "new").mkdir()
    latencies = []

    def make_all():
        for number in range(30):
            content, name = os.urandom(KIB), f"new/{number}"
            began = time.monotonic()
            (run.a / name).write_bytes(content)
            run.until(lambda: piece(run.b / name, 0, 2 * KIB) == content, 0.001, 60)
            latencies.append(time.monotonic() - began)
            time.sleep(0.2 + 0.1 * (number % 5))
    result = run.measure(make_all, lambda: True)
    latencies.sort()
    yield {**result, "seconds": statistics.median(latencies), "slowest": latencies[-1], "latencies": latencies}
    run.take_away("new")


def w10(run):
    """1 KiB appended each second, 30 times"""
    log, seen = run.a / "log", run.b / "log"
    behind = []

    def append_all():
        start = time.monotonic()
        for number in range(30):
            with open(log, "ab") as file:
                file.write(os.urandom(KIB))
            size = log.stat().st_size
            began = time.monotonic()
            if run.system.runs_by_itself:
                while time.monotonic() < start + number + 1:
                    if seen.exists() and seen.stat().st_size == size:
                        behind.append(time.monotonic() - began)
                        break
                    time.sleep(0.005)
                else:
                    behind.append(1.0)
            else:
                run.system.sync()
                behind.append(time.monotonic() - began)
            time.sleep(max(0, start + number + 1 - time.monotonic()))
    result = run.measure(append_all, lambda: piece(log, 0, MIB) == piece(seen, 0, MIB))
    traffic = result["bytes"]["a up"] + result["bytes"]["a down"]
    yield {**result, "seconds": max(behind), "traffic to data": traffic / (30 * KIB)}
    run.take_away("log")


def w11(run):
    """A tree of 10,000 files deleted"""
    for number in range(run.runs):
        run.prepare(lambda: small_files(run.stage / "gone", 10_000, 200, KIB, 16 * KIB, 100 + number), "gone")
        began = time.monotonic()
        seen = has_none(run.b / "gone", listing(run.a / "gone"))
        result = run.measure(lambda: shutil.rmtree(run.a / "gone"), seen)
        yield {**result, "began": began}


def w12(run):
    """First sync of 50,000 files of 0.5 to 4 KiB"""
    yield run.put(small_files(run.stage / "fifty", 50_000, 500, 512, 4 * KIB, 12), "fifty")


def idle(run):
    """A minute of nothing, with the 50,000 files"""
    if not run.system.runs_by_itself:
        return
    run.prepare(lambda: small_files(run.stage / "fifty", 50_000, 500, 512, 4 * KIB, 12), "fifty")
    run.quiet(60)
    yield run.measure(lambda: time.sleep(60), lambda: True)


def w13(run):
    """A client killed halfway through 1 GiB at 200 Mbit/s: what is sent twice"""
    if not run.system.runs_by_itself:
        return

    def restart_client():
        run.system.stop_client("a", signal.SIGKILL)
        time.sleep(1)
        run.system.start_client("a")
    yield sent_twice(run, restart_client)


def hub13(run):
    """The server killed halfway through 1 GiB at 200 Mbit/s, and started again: what is sent twice"""
    if hasattr(run.system, "restart_server"):
        yield sent_twice(run, run.system.restart_server)


def sent_twice(run, interrupt):
    """Interrupts the upload of 1 GiB halfway."""
    size, before = 1024 * MIB, run.place.traffic()["a up"]
    made = random_file(run.stage / "large", size, 13)

    def act():
        os.rename(made, run.a / "large")
        while run.place.traffic()["a up"] - before < size // 2:
            time.sleep(0.05)
        interrupt()
    result = run.measure(act, lambda: listing(run.b / "large") == {"": size})
    return {**result, "sent twice": result["bytes"]["a up"] - size}


def w14(run):
    """A client with 50,000 files started again, until a file made meanwhile arrives"""
    if not run.system.runs_by_itself:
        return
    run.prepare(lambda: small_files(run.stage / "fifty", 50_000, 500, 512, 4 * KIB, 12), "fifty")
    for number in range(run.runs):
        run.system.stop_client("a")
        (run.a / "fifty" / f"meanwhile {number}").write_bytes(b"made while nobody looked\n")
        yield run.measure(lambda: run.system.start_client("a"), lambda: (run.b / "fifty" / f"meanwhile {number}").exists())


def w15(run):
    """256 MiB of text"""
    yield run.put(text_file(run.stage / "text", 256 * MIB), "text")
    run.take_away("text")


# Those that begin with what the one before has made can be measured in the same place.
GOES_ON = {"idle": "w12", "w14": "idle"}
ALL = {work.__name__: work for work in (w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, idle, w13, hub13, w14, w15)}
RATES = {"w13": "200mbit", "hub13": "200mbit"}
