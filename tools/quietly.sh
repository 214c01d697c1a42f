#!/bin/sh
# Runs a command; shows what it said only if it failed.
said=$("$@" 2>&1) || {
    status=$?
    printf '%s\n' "$said"
    exit $status
}
