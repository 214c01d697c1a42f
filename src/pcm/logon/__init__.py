"""The logon server: answers 'what is for me?' and takes status reports in. Holds no authority to execute anything."""
