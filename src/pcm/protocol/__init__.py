"""Every document that crosses a machine boundary, with its version and its codec. Bytes in, values out; no I/O."""
