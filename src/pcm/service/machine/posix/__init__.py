"""What every POSIX system shares: folders only administrators can write to, staging, bounded program output."""
