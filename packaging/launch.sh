#!/bin/sh
# @NAME@ of the version that this name leads to just now. That version stays the same for as long as it runs, whatever is installed
# meanwhile. Nothing of the environment, the current folder or the user's own Python decides which code runs (-I -S).
here=$(readlink -f "$0")
tree=${here%/bin/*}
exec "$tree/bin/python3.11" -I -S "$tree/lib/start/@NAME@.py" "$@"
