"""Keys, the two TUF repositories (writing), verification and cross-check (reading), version floors."""
