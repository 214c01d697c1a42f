#!/bin/sh
# Runs each argument as a command, the later ones also after one that failed, and fails at the end if any did: a slip in style must
# not hide what the tests found. Names what failed on the last line.
failed=
for command in "$@"; do
    sh -c "$command" || failed="$failed
  $command"
done
if [ -n "$failed" ]; then
    printf 'failed:%s\n' "$failed" >&2
    exit 1
fi
