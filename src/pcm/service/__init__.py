"""The PCM service on a client: inbox, planner, journal, runner, outbox and local API. It alone runs programs."""
