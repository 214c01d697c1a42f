"""The site server: packages, jobs, targeting, compile, intake, database and the API that administrators talk to."""
