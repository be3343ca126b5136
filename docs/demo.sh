#!/bin/sh
# Start a pool of two workers on the built-in demo index, ask it one question, print the passages, stop it.
set -eu

port="${1:-5555}"
broker="tcp://127.0.0.1:$port"
question="how do I make a class attribute read only"
words="$(mktemp)"

rag-broker start --demo --workers 2 --frontend "$broker" >"$words" &
pool=$!
finish() {
    kill "$pool" 2>/dev/null || true
    wait "$pool" 2>/dev/null || true
    rm -f "$words"
}
trap finish EXIT
trap 'exit 130' INT TERM

until grep -q '^ready' "$words"; do
    kill -0 "$pool" 2>/dev/null || { echo "the pool did not start" >&2; exit 1; }
    sleep 0.2
done

cat "$words"
echo
echo "\$ rag-query \"$question\" -k 2"
rag-query "$question" -k 2 --broker "$broker"
echo
echo "\$ rag-broker status"
rag-broker status --frontend "$broker"
