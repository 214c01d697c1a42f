"""The site's database: tables, connections, migrations. One code for SQLite and PostgreSQL."""
