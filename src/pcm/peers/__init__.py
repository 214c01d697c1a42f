"""Clients of one subnet that give each other what they have fetched, so that a file comes through the uplink about once."""
