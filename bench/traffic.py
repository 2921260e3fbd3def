#!/usr/bin/env python3
"""The traffic tables that have been published about commercial services, for Syncline.

    cargo build --release && sudo python3 bench/traffic.py                   all workloads
    sudo python3 bench/traffic.py --workloads t1,t3                          some of them
    python3 bench/traffic.py --table                                         the stored results again

Devices reach the hub over TLS and a line of 20 Mbit/s and 50 ms there and back; device `a`'s packets are counted on its
interface, IP headers included, both ways together unless it says otherwise. Large files are prepared without the line's
limits. What takes an hour in the papers takes `--minutes` here, at the same pace.
"""
import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import systems
from place import Place
from workloads import KIB, MIB, Run, fingerprint, piece, random_file

RESULTS = Path("target/bench/traffic")
LINE = (20, 50)
KB, MB = 1000, 1000 * 1000


class Traffic:
    """What a device's interface has carried since the beginning."""

    def __init__(self, run):
        self.run, self.before, self.began = run, run.place.traffic(), time.monotonic()

    def of(self, device):
        now = self.run.place.traffic()
        return sum(now[f"{device} {way}"] - self.before[f"{device} {way}"] for way in ("up", "down"))

    def row(self, what, goal, **more):
        row = {"what": what, "a": self.of("a"), "b": self.of("b"), "goal": goal, "seconds": time.monotonic() - self.began,
               "equal": fingerprint(self.run.a, (".syncline",)) == fingerprint(self.run.b, (".syncline",)), **more}
        words = "  ".join(f"{name} {value}" for name, value in more.items())
        print(f"{time.strftime('%H:%M:%S')} {what:60} a {row['a']:>11,} B  goal {goal:>11,} B  b {row['b']:>11,} B  {words}"
              f"{'' if row['equal'] else '  NOT EQUAL'}", flush=True)
        return row


def change(run, what, goal, act, seen, limit=300, **more):
    """One change: from a's disk to b's, and until all is quiet."""
    traffic = Traffic(run)
    act()
    run.until(seen, 0.01, limit)
    run.quiet()
    return traffic.row(what, goal, **more)


def size(path):
    return path.stat().st_size if path.exists() else -1


def prepare(run, name, length):
    run.place.hurry(True)
    run.prepare(lambda: random_file(run.stage / name, length, length), name)
    run.place.hurry(False)


# The workloads. Each yields rows.

def t1(run):
    """one incompressible file created"""
    for length, goal in ((1, 1.5 * KB), (KIB, 2.5 * KB), (MIB, 1.03 * MIB), (10 * MIB, 10.3 * MIB)):
        name = f"new {length}"
        made = random_file(run.stage / name, length, length)
        yield change(run, f"a file of {shown(length)} created", int(goal), lambda: os.rename(made, run.a / name),
                     lambda: size(run.b / name) == length)


def t2(run):
    """100 files at once"""
    chance = random.Random(2)
    made = [(run.stage / f"one of many {number}", chance.randbytes(KIB)) for number in range(100)]
    for path, content in made:
        path.write_bytes(content)
    yield change(run, "100 files of 1 KiB at once", 115 * KB, lambda: [os.rename(path, run.a / path.name) for path, _ in made],
                 lambda: all(size(run.b / path.name) == KIB for path, _ in made))


def t3(run):
    """one byte changed"""
    for length in (KIB, 10 * KIB, 100 * KIB, MIB, 10 * MIB, 100 * MIB, 1024 * MIB):
        name = f"edited {length}"
        prepare(run, name, length)
        at = random.Random(length).randrange(length)

        def edit():
            with open(run.a / name, "r+b") as file:
                file.seek(at)
                old = file.read(1)[0]
                file.seek(at)
                file.write(bytes([old ^ 0xFF]))
        yield change(run, f"a byte changed in a file of {shown(length)}", 12 * KB, edit,
                     lambda: piece(run.a / name, at, 1) == piece(run.b / name, at, 1))
        (run.a / name).unlink()
        run.until(lambda: not (run.b / name).exists(), 0.1, 60)
        run.quiet()


def t4(run):
    """a file deleted"""
    prepare(run, "gone", MIB)
    yield change(run, "a file of 1 MiB deleted", 1 * KB, lambda: (run.a / "gone").unlink(), lambda: not (run.b / "gone").exists())


def t5(run):
    """random English words"""
    words = Path(OPTIONS.words).read_text().split()
    chance = random.Random(5)
    made = run.stage / "words"
    made.write_bytes(" ".join(chance.choices(words, k=2_000_000)).encode()[:10 * MB])
    yield change(run, "10 MB of random English words", int(4.4 * MB), lambda: os.rename(made, run.a / "words"),
                 lambda: size(run.b / "words") == 10 * MB)


def appending(run, name, what, goal, unit, pause, total):
    """`unit` bytes appended every `pause` seconds until there are `total`: traffic, and how far b is behind."""
    log, seen, behind, made = run.a / name, run.b / name, [], []
    stop = threading.Event()

    def look():
        at = 0
        while not (stop.is_set() and at == len(made)):
            there = size(seen)
            while at < len(made) and there >= made[at][0]:
                behind.append(time.monotonic() - made[at][1])
                at += 1
            if stop.is_set() and at < len(made) and time.monotonic() - made[-1][1] > 60:
                return
            time.sleep(0.01)

    looking = threading.Thread(target=look)
    traffic = Traffic(run)
    looking.start()
    begin = time.monotonic()
    for number in range(total // unit):
        time.sleep(max(0, begin + number * pause - time.monotonic()))
        with open(log, "ab") as file:
            file.write(os.urandom(unit))
        made.append((unit * (number + 1), time.monotonic()))
    stop.set()
    looking.join()
    run.quiet()
    behind.sort()
    late = behind[int(len(behind) * 0.95)] if behind else None
    ratios = {f"{device}/data": round(traffic.of(device) / total, 2) for device in "ab"}
    return traffic.row(what, goal, **ratios, behind_p95=round(late, 2) if late is not None else None)


def t7(run):
    """X KB appended every X seconds"""
    for pace in map(int, OPTIONS.paces.split(",")):
        count = max(6, int(OPTIONS.minutes * 60 / pace))
        total = min(count * pace, 1024 // pace * pace) * KIB
        yield appending(run, f"log {pace}", f"{pace} KiB appended every {pace} s until {total // KIB} KiB", 2 * total,
                        pace * KIB, pace, total)


def u1(run):
    """one byte a second"""
    total = min(KIB, int(OPTIONS.minutes * 60))
    yield appending(run, "slow", f"1 byte appended each second until {total} B", 150 * KB * total // KIB, 1, 1, total)


def u2(run):
    """a download into the folder"""
    yield appending(run, "download", "a download of 5 MB at 80 kbit/s into the folder", int(5.5 * MB) if OPTIONS.minutes >= 8.4
                    else int(1.1 * OPTIONS.minutes * 60 * 10 * KB), 2500, 0.25, int(min(5 * MB, OPTIONS.minutes * 60 * 10 * KB)))


def u3(run):
    """two people at a text of 1 MB"""
    words = [word for word in Path(OPTIONS.words).read_text().split() if word.isascii()]
    chance, made = random.Random(3), run.stage / "text"
    made.write_text(" ".join(chance.choices(words, k=200_000))[:MB])
    run.place.hurry(True)
    os.rename(made, run.a / "text")
    run.until(lambda: size(run.b / "text") == MB, 0.1, 60)
    run.quiet()
    run.place.hurry(False)
    traffic, begin, turn = Traffic(run), time.monotonic(), 0
    # Each saves every 20 seconds: a few words put in somewhere, by way of a new file as editors do.
    while (at := begin + turn * 10) < begin + OPTIONS.minutes * 60:
        time.sleep(max(0, at - time.monotonic()))
        mine, theirs = (run.a, run.b) if turn % 2 == 0 else (run.b, run.a)
        old = (mine / "text").read_text()
        where = chance.randrange(len(old))
        new = old[:where] + " ".join(chance.choices(words, k=6)) + " " + old[where:]
        (run.stage / "saved").write_text(new)
        os.rename(run.stage / "saved", mine / "text")
        run.until(lambda: (theirs / "text").read_text() == new, 0.05, 9)
        turn += 1
    run.quiet()
    yield traffic.row(f"{turn} saves of two people in a text of 1 MB", 3 * MB * turn // 360, saves=turn)


def s(run):
    """streaming"""
    length = int(OPTIONS.stream * MB)
    made = random_file(run.stage / "film", length, 6)
    before, begin = run.place.traffic(), time.monotonic()
    traffic = Traffic(run)
    os.rename(made, run.a / "film")
    one_leg = None

    def seen():
        nonlocal one_leg
        if one_leg is None and run.place.traffic()["a up"] - before["a up"] >= length:
            one_leg = time.monotonic() - begin
        return size(run.b / "film") == length
    run.until(seen, 0.02, 3600)
    both = time.monotonic() - begin
    run.quiet()
    yield traffic.row(f"{shown(length)} streamed: both legs in {both:.1f} s, one in {one_leg:.1f} s", int(1.02 * length),
                      both_to_one=round(both / one_leg, 3), goal_both=1.15)


ALL = {work.__name__: work for work in (t1, t2, t3, t4, t5, t7, u1, u2, u3, s)}


def shown(length):
    for unit, name in ((1024 * MIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if length >= unit and length % unit == 0:
            return f"{length // unit} {name}"
    return f"{length / MB:g} MB" if length >= MB else f"{length} B"


def table(stored):
    lines = ["| | workload | `a`, both ways | goal | `b`, both ways | |", "|---|---|---|---|---|---|"]
    for work in ALL:
        for row in stored.get(work, []):
            more = ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in ("a/data", "b/data", "behind_p95", "both_to_one") if name in row)
            mark = "" if row["a"] <= row["goal"] else "**missed** "
            lines.append(f"| {work[0].upper()}{work[1:]} | {row['what']} | {row['a']:,} | {row['goal']:,} | {row['b']:,} | {mark}{more} |")
    return "\n".join(lines)


def measure(work):
    scratch = Path(OPTIONS.scratch, f"syncline-traffic-{os.getpid()}-{work}")
    place = Place(scratch, line=LINE)
    try:
        system = systems.Syncline(place)
        system.start(encrypted=True)
        time.sleep(1)
        run = Run(place, system, 1, None)
        run.quiet()
        # The connections are made by now; the first call of a pair is not counted as warm.
        (run.a / "warm").write_bytes(b"warm")
        run.until(lambda: size(run.b / "warm") == 4, 0.05, 60)
        run.quiet()
        rows = list(ALL[work](run))
        (RESULTS / f"{work}.json").write_text(json.dumps(rows, indent=1))
    finally:
        place.close()
        if not OPTIONS.keep:
            shutil.rmtree(scratch, ignore_errors=True)


def main():
    global OPTIONS
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workloads", default=",".join(ALL))
    options.add_argument("--paces", default="1,2,5,10,20", help="the X of t7")
    options.add_argument("--minutes", type=float, default=17.1, help="how long t7, u1, u2 and u3 may take each")
    options.add_argument("--stream", type=float, default=500, help="MB of s")
    options.add_argument("--words", default="/usr/share/dict/words", help="English words, one a line (Debian: wamerican)")
    options.add_argument("--scratch", default=tempfile.gettempdir(), help="where the folders lie")
    options.add_argument("--keep", action="store_true", help="leave folders and logs there")
    options.add_argument("--table", action="store_true", help="measure nothing")
    OPTIONS = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not OPTIONS.table:
        if os.geteuid() != 0:
            raise SystemExit("network namespaces need root")
        for work in OPTIONS.workloads.split(","):
            measure(work)
    print(table({file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}))


main()
