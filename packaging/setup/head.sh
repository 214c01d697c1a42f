#!/bin/sh
# Package Command Manager client @VERSION@ for Linux on @MACHINE@: sets it up, or brings the client that is here to this version.
#
# A shell script, with an archive behind it and, if `pcm client installer` made it, a site's kit behind that. Nothing of either is
# unpacked or executed before its SHA-256 is what this head says. Needs: sh, tar, gzip, coreutils, systemd.
set -eu

VERSION='@VERSION@'
MACHINE='@MACHINE@'
HEAD_BYTES=@HEAD_BYTES@
PAYLOAD_BYTES=@PAYLOAD_BYTES@
PAYLOAD_SHA256=@PAYLOAD_SHA256@
# what `pcm client installer` writes:
KIT_BYTES=0
KIT_SHA256=
KIT_TOLD='no site: give one with --kit FILE'

say_usage() {
    cat <<END
Package Command Manager client $VERSION for Linux on $MACHINE ($KIT_TOLD).

usage: sudo sh $SELF [--kit FILE] [--token TOKEN | --token-file FILE] [--trial SPAN | --no-trial] [--again]
       [--dry-run] [--json]
       sh $SELF --help | --version | --verify

Sets the client up, or brings the one that is here to this version: its key and its records stay. Doing it again is safe.

  --kit FILE          enrolment kit of a site (pcm client kit), instead of the one in this file
  --token TOKEN       one-time enrolment token; '-' reads it from standard input. Others on this computer see the command line
  --token-file FILE   file with the token
  --trial SPAN        how long a newer version may take to show that it works, or the one before comes back (default: 15m)
  --no-trial          a newer version need not show anything
  --again             also a version that was here and did not work
  --dry-run           say what would be done, and do nothing
  --json              answer in JSON
  --verify            only hold this file against its own hashes; needs no rights
  --version           say the version

exit codes: 0 done, 1 refused or failed, 2 usage, 4 not allowed, 5 unreachable
END
}

fail() {
    code=$1
    shift
    printf '%s: %s\n' "$SELF" "$*" >&2
    exit "$code"
}

# part FIRST LENGTH FILE: some bytes of this file, FIRST counted from 0
part() {
    tail -c +"$(($1 + 1))" -- "$SETUP" | head -c "$2" >"$3"
}

# hold FILE SHA256 NAME
hold() {
    set -- "$(sha256sum <"$1")" "$2" "$3"
    test "${1%% *}" = "$2" || fail 1 "this file is damaged: its $3 is not what it was made with. Copy it again. Nothing was changed."
}

# a folder below which root may unpack: root's own, and for nobody else to change
hold_folder() {
    test -z "$(find "$1" -maxdepth 0 \( -type l -o ! -type d -o ! -user 0 -o -perm /022 \) -print 2>/dev/null)" ||
        fail 1 "$1 is not a folder that root alone may change (chown root $1; chmod go-w $1). Nothing was changed."
}

unpack() {
    test "$(wc -c <"$SETUP")" -eq $((HEAD_BYTES + PAYLOAD_BYTES + KIT_BYTES)) ||
        fail 1 "this file is not complete, or has more than it was made with. Copy it again. Nothing was changed."
    part "$HEAD_BYTES" "$PAYLOAD_BYTES" "$FOLDER/archive"
    hold "$FOLDER/archive" "$PAYLOAD_SHA256" archive
    if test "$KIT_BYTES" -gt 0; then
        part $((HEAD_BYTES + PAYLOAD_BYTES)) "$KIT_BYTES" "$FOLDER/kit.json"
        hold "$FOLDER/kit.json" "$KIT_SHA256" kit
    fi
}

refuse_usage() {
    say_usage >&2
    fail 2 "$*"
}

# every option is this file's own: what it does not know is said here, before anything is unpacked
read_options() {
    wants=
    for argument in "$@"; do
        if test -n "$wants"; then
            wants=
            continue
        fi
        case $argument in
        -h | --help) say_usage && exit 0 ;;
        --version) echo "$VERSION" && exit 0 ;;
        --verify) verify_only=yes ;;
        --kit) own_kit=yes && wants=$argument ;;
        --kit=*) own_kit=yes ;;
        --token | --token-file | --trial) wants=$argument ;;
        --token=* | --token-file=* | --trial=* | --no-trial | --again | --keep-newer | --dry-run | --json) ;;
        *) refuse_usage "there is no option $argument. Nothing was changed." ;;
        esac
    done
    test -z "$wants" || refuse_usage "$wants wants a value. Nothing was changed."
}

main() {
    SETUP=$0
    SELF=${0##*/}
    test -r "$SETUP" || fail 2 "run it as a file: sudo sh FILE"
    PATH=/usr/sbin:/usr/bin:/sbin:/bin
    LC_ALL=C
    export PATH LC_ALL
    unset ENV BASH_ENV CDPATH TAR_OPTIONS GZIP POSIXLY_CORRECT LD_PRELOAD LD_LIBRARY_PATH
    umask 077
    verify_only=no
    own_kit=no
    read_options "$@"
    if test "$verify_only" = no; then
        test "$(id -u)" -eq 0 || fail 4 "only an administrator can set the client up. Run it with: sudo sh $SETUP"
        test "$(uname -s)" = Linux || fail 1 "this client is for Linux, and this is $(uname -s)."
        test "$(uname -m)" = "$MACHINE" || fail 1 "this client is for $MACHINE, and this computer is $(uname -m). Ask for the other file."
        test -d /opt || mkdir -m 755 /opt
        test -d /opt/pcm || mkdir -m 755 /opt/pcm
        hold_folder /opt
        hold_folder /opt/pcm
        FOLDER=$(mktemp -d /opt/pcm/.setup.XXXXXXXXXX)
    else
        FOLDER=$(mktemp -d)
    fi
    trap 'rm -rf "$FOLDER"; rmdir /opt/pcm 2>/dev/null || :' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    unpack
    if test "$verify_only" = yes; then
        echo "$SELF is whole: client $VERSION for Linux on $MACHINE ($KIT_TOLD)."
        exit 0
    fi
    # modes are the archive's, owners are root
    tar --extract --gzip --file="$FOLDER/archive" --directory="$FOLDER" --no-same-owner --preserve-permissions
    rm "$FOLDER/archive"
    "$FOLDER/tree/bin/python3.11" -I -S -c '' 2>/dev/null ||
        fail 1 "the client's interpreter does not run here: it needs the GNU C library 2.36 or newer. Nothing was changed."
    if test "$KIT_BYTES" -gt 0 && test "$own_kit" = no; then
        set -- --kit "$FOLDER/kit.json" "$@"
    fi
    code=0
    "$FOLDER/tree/bin/pcmsvc" install "$@" || code=$?
    exit "$code"
}

main "$@"
exit
