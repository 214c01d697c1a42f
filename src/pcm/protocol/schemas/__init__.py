"""JSON Schemas of the documents, for editors and other programs; written by `python -m pcm.cli.schemas`."""
