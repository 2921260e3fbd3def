"""A long line between two network namespaces, for kernels that cannot delay packets themselves: a tun device at each end,
and this process between them, which carries each packet at the line's rate and hands it over when its delay has passed.

    line.py NAMESPACE DEVICE ADDRESS  NAMESPACE DEVICE ADDRESS  MBIT_PER_SECOND ROUND_TRIP_MS

It says `ready` when both ends are up. SIGUSR1 lifts rate and delay, for preparations; SIGUSR2 sets them again. Packets have
no Ethernet header here and are never larger than 1,500 bytes, so a device's counters show what a provider would count.
"""
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
CLONE_NEWNET = 0x40000000
LONGEST_PACKET = 2048
# What a line holds that has no room left, in seconds of its rate; what comes then is lost, as with any router.
ROOM = 0.1
PACKETS_AT_ONCE = 128


def end_of_line(namespace, device, address, far):
    with open(f"/run/netns/{namespace}") as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    for words in (["addr", "add", address, "peer", far, "dev", device], ["link", "set", device, "mtu", "1500", "up"]):
        subprocess.run(["ip", *words], check=True)
    return end


class Direction:
    def __init__(self, source, target):
        self.source, self.target = source, target
        self.free_at, self.waiting = 0.0, deque()

    def take(self, pace, delay):
        for _ in range(PACKETS_AT_ONCE):
            try:
                packet = os.read(self.source, LONGEST_PACKET)
            except BlockingIOError:
                return
            now = time.monotonic()
            begins = max(now, self.free_at)
            if pace and begins - now > ROOM:
                continue
            self.free_at = begins + len(packet) * pace
            self.waiting.append((self.free_at + delay, packet))

    def give(self):
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            try:
                os.write(self.target, self.waiting.popleft()[1])
            except OSError:
                pass                             # the device is gone, or its queue full: lost


def main():
    first, second, (rate, round_trip) = sys.argv[1:4], sys.argv[4:7], map(float, sys.argv[7:9])
    ends = [end_of_line(*first, second[2]), end_of_line(*second, first[2])]
    slow = 8 / (rate * 1e6), round_trip / 2000
    state = {"line": slow}
    signal.signal(signal.SIGUSR1, lambda *_: state.update(line=(0.0, 0.0)))
    signal.signal(signal.SIGUSR2, lambda *_: state.update(line=slow))
    directions = [Direction(*ends), Direction(*reversed(ends))]
    watched = select.poll()
    for end in ends:
        watched.register(end, select.POLLIN)
    print("ready", flush=True)
    while True:
        next_due = min((direction.waiting[0][0] for direction in directions if direction.waiting), default=None)
        watched.poll(None if next_due is None else max(0, (next_due - time.monotonic()) * 1000))
        for direction in directions:
            direction.take(*state["line"])
            direction.give()


main()
