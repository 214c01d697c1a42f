"""Linux: process trees by subreaper or by systemd, confined children, presence. Behind `service.machine.interface` only."""
