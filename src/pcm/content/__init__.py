"""Package files by hash: scanning a package directory, the object store, assembly, garbage collection."""
