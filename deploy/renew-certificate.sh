#!/bin/sh
# Gives HAProxy a renewed certificate without ending a connection: `sh renew-certificate.sh FILE [SOCKET]`
#
# Put the new certificate, those between it and its authority, and its key into FILE first, as haproxy.cfg names it:
# HAProxy reads it at its next start. This tells the one that runs, through its `stats socket`. Do it on both balancers.
# Needs socat.
set -eu

file=${1:?"usage: renew-certificate.sh FILE [SOCKET]"}
socket=${2:-/run/haproxy/admin.sock}

tell() {
    said=$(socat -t 10 - "UNIX-CONNECT:$socket")
    case $said in
        *"$1"*) ;;
        *) echo "HAProxy does not take $file: $said" >&2; exit 1 ;;
    esac
}

# An empty line ends what HAProxy reads.
{ printf 'set ssl cert %s <<\n' "$file"; grep -v '^[[:space:]]*$' "$file"; echo; } | tell "Transaction"
printf 'commit ssl cert %s\n' "$file" | tell "Success"
