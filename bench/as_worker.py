"""Imported first by a process that stands for the service's worker: it starts as that one does, before it imports what works."""

import gc

from pcm.service import quick_start  # noqa: F401 - before anything that loads msgspec

gc.set_threshold(50_000, 20, 20)
