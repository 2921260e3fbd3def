#!/usr/bin/env python3
"""Compares Syncline with its peers, from one device by way of the hub to the other.

    cargo build --release && sudo python3 bench/run.py                       all workloads, all systems there are
    sudo python3 bench/run.py --systems syncline,rsync --workloads w1,w9     some of them
    python3 bench/run.py --table                                             the stored results again

Results are kept in target/bench, one file for each system and workload; a table is printed, and plots are written to
docs/benchmarks. The systems take turns on each workload, so that what a shared machine does meanwhile strikes all of them.
"""
import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import systems
import workloads
from place import Place
from show import plot, table

RESULTS = Path("target/bench")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--systems", default=",".join(systems.ALL))
    options.add_argument("--workloads", default=",".join(workloads.ALL))
    options.add_argument("--runs", type=int, default=3, help="repetitions of short workloads")
    options.add_argument("--source", default="/usr/src/linux-source-6.1", help="the tree of w3")
    options.add_argument("--scratch", default=tempfile.gettempdir(), help="where the folders lie")
    options.add_argument("--keep", action="store_true", help="leave the folders there: on some file systems new files take "
                         "several times as long for minutes after many were removed")
    options.add_argument("--table", action="store_true", help="measure nothing")
    wanted = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))       # so that the place is taken down
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not wanted.table:
        if os.geteuid() != 0:
            raise SystemExit("network namespaces need root")
        works = wanted.workloads.split(",")
        while works:
            together = [works.pop(0)]
            while works and workloads.GOES_ON.get(works[0]) == together[-1]:
                together.append(works.pop(0))
            for name in wanted.systems.split(","):
                measure(name, together, wanted)
    stored = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    print(table(stored))
    plot(stored, Path("docs/benchmarks"))


def measure(name, works, wanted):
    """Some workloads, one after the other in one place."""
    work = works[0]
    if not systems.available(name):
        return print(f"{name} is not installed: left out", file=sys.stderr)
    if work == "w3" and not Path(wanted.source).is_dir():
        return print(f"w3 needs a source tree (--source): {wanted.source} is none", file=sys.stderr)
    scratch = Path(wanted.scratch, f"syncline-bench-{os.getpid()}")
    place = Place(scratch, workloads.RATES.get(work))
    try:
        system = systems.ALL[name](place)
        system.start()
        time.sleep(1)
        run = workloads.Run(place, system, wanted.runs, wanted.source)
        run.quiet()
        for work in works:
            keep(name, system, work, run)
    finally:
        place.close()
        if not wanted.keep:
            shutil.rmtree(scratch, ignore_errors=True)


def keep(name, system, work, run):
    results = []
    for result in workloads.ALL[work](run):
        results.append(result)
        print(f"{time.strftime('%H:%M:%S')} {work:5} {name:10} {result['seconds']:8.3f} s  "
              f"up {result['bytes']['a up'] / 1e6:9.3f} MB  down {result['bytes']['b down'] / 1e6:9.3f} MB  "
              f"cpu {sum(result['cpu'].values()):6.2f} s  load of others {result['outside load']:.1f}"
              f"{'' if result['equal'] else '  NOT EQUAL'}", flush=True)
    if results:
        best = min(results, key=lambda result: (not result["equal"], result["seconds"]))
        kept = {"system": name, "version": system.version(), "workload": work, "what": workloads.ALL[work].__doc__,
                "when": time.strftime("%Y-%m-%d"), "machine": machine(), "best": best,
                "median": statistics.median(result["seconds"] for result in results),
                "equal": all(result["equal"] for result in results)}
        (RESULTS / f"{work}.{name}.json").write_text(json.dumps(kept, indent=1))


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    disk = subprocess.run(["stat", "-f", "-c", "%T", tempfile.gettempdir()], capture_output=True, text=True).stdout.strip()
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, {disk}"


main()
