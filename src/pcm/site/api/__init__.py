"""The admin API over HTTP: who asks, may they, what do they want; decisions are made by the site's other modules."""
