"""Bytes from and to servers of any kind (HTTP, a directory), and the signing of requests. Trusts nothing it carries."""
