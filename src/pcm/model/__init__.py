"""Pure values and rules: packages, programs, jobs, groups, assignments, schedules. No I/O, no clock, imports nothing above."""
