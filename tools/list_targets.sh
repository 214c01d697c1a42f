#!/bin/sh
# Prints the Makefile's targets, each from its `## …` comment. A comment that opens with [path] is shown only if that path exists,
# so that nobody is sent to a part that is not built.
awk -F ':.*## ' '/^[a-z-]+:.*## / { print $1 "\t" $2 }' "$1" | while IFS="$(printf '\t')" read -r target text; do
    case $text in
    "["*)
        path=${text#\[}
        path=${path%%\]*}
        text=${text#*\] }
        # shellcheck disable=SC2086  # the path may be a pattern
        set -- $path
        [ -e "$1" ] || continue
        ;;
    esac
    printf 'make %-14s %s\n' "$target" "$text"
done
