"""Package Command Manager: installs software on a fleet with administrator rights, without giving users or servers any.

`ARCHITECTURE.md` tells the twelve steps of one package command and names the file of each.
"""
