"""The one place that touches the operating system: processes, protected folders, presence, restart, detection."""
